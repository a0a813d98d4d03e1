#include <errno.h>

#include "fl_extract_private.h"

/* A directory that changed gets its times: those of its entry, or those it had. */
static bool wants_times(const struct fl_dir *d)
{
    return (d->flags & FL_DIR_TIMES) && (d->flags & (FL_DIR_ENTRY | FL_DIR_TOUCHED));
}

static bool wants_sync(const struct fl_extract *x, const struct fl_dir *d)
{
    return x->opt.fsync && (d->flags & (FL_DIR_ENTRY | FL_DIR_TOUCHED));
}

static bool is_settled(const struct fl_extract *x, const struct fl_dir *d)
{
    return !wants_times(d) && !wants_sync(x, d) && !(d->flags & FL_DIR_MODE);
}

static int settle(struct fl_extract *x, const struct fl_dir *d, int fd, struct fl_error *err)
{
    struct timespec times[2] = {{d->mtime_sec, d->mtime_nsec}, {d->mtime_sec, d->mtime_nsec}};

    if ((d->flags & FL_DIR_MODE) && fchmod(fd, d->final_mode) < 0)
        return fl_error_os(err, errno, "chmod", NULL, 0);
    if (wants_times(d) && futimens(fd, times) < 0)
        return fl_error_os(err, errno, "utimensat", NULL, 0);
    if (wants_sync(x, d) && fsync(fd) < 0)
        return fl_error_os(err, errno, "fsync", NULL, 0);
    return 0;
}

/* Children first: a parent may close itself to its owner. */
int fl_dirtimes_settle(struct fl_extract *x, struct fl_error *err)
{
    fl_path_spread_gone(&x->path);
    for (uint32_t i = x->path.count; i-- > 0;) {
        const struct fl_dir *d = fl_extract_dir(x, i);
        int fd, r;

        if ((d->flags & FL_DIR_GONE) || is_settled(x, d))
            continue;
        if (fl_work_check(&x->work.stop, err) < 0)
            return -1;
        r = fl_path_find(&x->path, i, &fd, err);
        if (r < 0 || (r > 0 && settle(x, d, fd, err) < 0)) {
            fl_error_path(err, x->path.names.data + d->name_off, strlen((char *)x->path.names.data + d->name_off));
            return -1;
        }
    }
    return 0;
}
