/* Are two entries, two files, the same?
 *
 * fl_compare_metadata looks at what an entry says. Contents are compared by a
 * struct fl_content, which is resumable so that a large file does not keep its
 * caller from looking at signals: start once, step until it says so.
 */
#ifndef FL_COMPARE_H
#define FL_COMPARE_H

#include <stdbool.h>

#include "fl_entry.h"
#include "fl_open.h"

#define FL_COMPARE_PIECE 131072u

/* FL_WHAT_* in which two entries of one type differ, hard links and the bytes
 * of files aside (a different size is FL_WHAT_CONTENT). Variable parts are at
 * heap + path_off. The mode of a symbolic link and the size of a directory
 * mean nothing. */
uint32_t fl_compare_metadata(const struct fl_entry *a, const uint8_t *a_heap,
                             const struct fl_entry *b, const uint8_t *b_heap);

struct fl_content {
    struct fl_open a; /* beneath the roots of both trees                       */
    struct fl_open b;
    bool try_extents; /* shared extents prove equality                         */
    uint64_t bytes;   /* compared so far, of all files                         */

    /* private */
    int fd_a;
    int fd_b;
    uint64_t left;
    bool shares;       /* answer of fl_sys_can_share for these devices          */
    uint64_t shares_with;
    uint64_t shares_dev;
    uint8_t *buffers;  /* two pieces                                            */
};

void fl_content_init(struct fl_content *c, int a_root, int b_root);
void fl_content_free(struct fl_content *c);

/* Opens both files of one path, of the same size > 0. Either being no regular
 * file of that size any more is FL_ERR_CHANGED. */
int fl_content_start(struct fl_content *c, const uint8_t *path, uint32_t path_len,
                     const struct fl_entry *a, const struct fl_entry *b,
                     struct fl_error *err);

/* The same for two files the caller has opened and checked: both are of `size`
 * > 0. `dev`: where both are, 0 when on different devices. On success they
 * belong to c. */
int fl_content_adopt(struct fl_content *c, int fd_a, int fd_b, uint64_t size,
                     uint64_t dev, struct fl_error *err);

enum fl_content_answer {
    FL_CONTENT_MORE = 0,
    FL_CONTENT_EQUAL = 1,
    FL_CONTENT_DIFFERENT = 2,
};

/* Compares up to `budget` bytes (at least one piece). Returns an answer or -1;
 * unless it is FL_CONTENT_MORE the files are closed. */
int fl_content_step(struct fl_content *c, uint64_t budget, const uint8_t *path,
                    uint32_t path_len, struct fl_error *err);

#endif
