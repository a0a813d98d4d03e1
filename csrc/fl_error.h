/* Errors are data.
 *
 * Every fallible function takes a `struct fl_error *err` as its last argument
 * and returns a negative number on failure, zero or a positive count on
 * success. On success `err` is untouched. On failure it is filled where the
 * failure happened; callers pass it up unchanged (or call fl_error_path to add
 * the path if the callee did not know it). Nothing is printed, nothing aborts.
 */
#ifndef FL_ERROR_H
#define FL_ERROR_H

#include <stddef.h>
#include <stdint.h>

enum fl_error_kind {
    FL_ERR_NONE = 0,
    FL_ERR_OS = 1,        /* a system call failed: errnum, op, path            */
    FL_ERR_FORMAT = 2,    /* malformed archive or index: detail, offset        */
    FL_ERR_UNSAFE = 3,    /* a name or entry that must be refused: path, detail */
    FL_ERR_LIMIT = 4,     /* a configured limit was exceeded: detail           */
    FL_ERR_CHANGED = 5,   /* a file changed while it was read: path            */
    FL_ERR_MEMORY = 6,    /* allocation failed                                 */
    FL_ERR_USAGE = 7,     /* caller broke the contract: detail                 */
};

#define FL_ERROR_PATH_MAX 4096
#define FL_ERROR_DETAIL_MAX 160

struct fl_error {
    int kind;                         /* enum fl_error_kind                    */
    int errnum;                       /* errno for FL_ERR_OS, else 0           */
    const char *op;                   /* static string, e.g. "openat"          */
    int64_t offset;                   /* byte offset in the archive, or -1     */
    uint32_t path_len;                /* bytes in path; longer: both ends of it */
    char path[FL_ERROR_PATH_MAX];     /* raw bytes, not NUL-terminated         */
    char detail[FL_ERROR_DETAIL_MAX]; /* NUL-terminated, lower case, no period */
};

/* All return -1 so that `return fl_error_os(...)` reads well. */
int fl_error_os(struct fl_error *err, int errnum, const char *op,
                const void *path, size_t path_len);
int fl_error_set(struct fl_error *err, int kind, const void *path,
                 size_t path_len, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
int fl_error_format(struct fl_error *err, int64_t offset, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int fl_error_memory(struct fl_error *err);

/* Sets the path if none was recorded yet. */
void fl_error_path(struct fl_error *err, const void *path, size_t path_len);

#endif
