#include "fl_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void reset(struct fl_error *err, int kind, int errnum, const char *op)
{
    err->kind = kind;
    err->errnum = errnum;
    err->op = op;
    err->offset = -1;
    err->path_len = 0;
    err->detail[0] = '\0';
}

void fl_error_path(struct fl_error *err, const void *path, size_t path_len)
{
    const size_t half = FL_ERROR_PATH_MAX / 2;

    if (err->path_len != 0 || path == NULL)
        return;
    if (path_len > FL_ERROR_PATH_MAX) {
        memcpy(err->path, path, half);
        memcpy(err->path + half, (const char *)path + path_len - half, half);
        path_len = FL_ERROR_PATH_MAX;
    } else {
        memcpy(err->path, path, path_len);
    }
    err->path_len = (uint32_t)path_len;
}

int fl_error_os(struct fl_error *err, int errnum, const char *op,
                const void *path, size_t path_len)
{
    reset(err, FL_ERR_OS, errnum, op);
    fl_error_path(err, path, path_len);
    return -1;
}

int fl_error_set(struct fl_error *err, int kind, const void *path,
                 size_t path_len, const char *fmt, ...)
{
    va_list ap;

    reset(err, kind, 0, "");
    fl_error_path(err, path, path_len);
    va_start(ap, fmt);
    vsnprintf(err->detail, sizeof(err->detail), fmt, ap);
    va_end(ap);
    return -1;
}

int fl_error_format(struct fl_error *err, int64_t offset, const char *fmt, ...)
{
    va_list ap;

    reset(err, FL_ERR_FORMAT, 0, "");
    err->offset = offset;
    va_start(ap, fmt);
    vsnprintf(err->detail, sizeof(err->detail), fmt, ap);
    va_end(ap);
    return -1;
}

int fl_error_memory(struct fl_error *err)
{
    reset(err, FL_ERR_MEMORY, 0, "");
    return -1;
}
