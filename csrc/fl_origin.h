/* Where the bytes of a change table's regular files are, and whether they are still what the table says.
 *
 * A file must still have the size of its row when it is opened, and the ctime that its aux gives (fl_entry.h);
 * a file that is read at its own path also the mtime and inode (0: unknown). When its last byte was read it
 * must not have changed meanwhile. Anything else is FL_ERR_CHANGED. A range of a root ('O') is not looked at.
 *
 * The table and the descriptors belong to the caller and must outlive the object. One thread at a time, but
 * fl_origin_check.
 */
#ifndef FL_ORIGIN_H
#define FL_ORIGIN_H

#include <stdbool.h>
#include <sys/stat.h>

#include "fl_changes.h"
#include "fl_open.h"

struct fl_origin {
    const struct fl_changes *table;
    struct fl_open *roots;
    uint32_t root_count;
};

struct fl_origin_file {
    int fd;         /* -1: none                                                 */
    bool own;       /* fd is to be closed, and to be compared at the end        */
    uint64_t pos;   /* where the bytes begin                                    */
    struct stat st; /* own: what it was when it was opened                      */
};

/* On failure nothing needs freeing. */
int fl_origin_init(struct fl_origin *o, const struct fl_changes *table, const int *roots, uint32_t root_count,
                   struct fl_error *err);
void fl_origin_free(struct fl_origin *o);

/* The file of a regular row that is no later name of a hard link. Release with fl_origin_close. */
int fl_origin_open(struct fl_origin *o, const struct fl_row *r, struct fl_origin_file *ret, struct fl_error *err);

/* Is it what it was when it was opened? */
int fl_origin_check(const struct fl_origin *o, const struct fl_row *r, const struct fl_origin_file *f,
                    struct fl_error *err);

void fl_origin_close(struct fl_origin_file *f);

/* Fills err for a row whose file is not what it was, or that no differ or builder makes. -1. */
int fl_origin_changed(const struct fl_changes *t, const struct fl_row *r, struct fl_error *err);
int fl_origin_bad_row(const struct fl_changes *t, const struct fl_row *r, struct fl_error *err);

#endif
