/* Whiteouts and opaque markers: removal of what lower layers have, and how the
 * storage formats write down what is hidden.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "fl_extract_private.h"
#include "fl_sys.h"
#include "fl_work.h"

#define MARKER_PREFIX ".wh."
#define MARKER_PREFIX_LEN 4u
#define OPAQUE_MARKER ".wh..wh..opq"
#define NEW_FILE (O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC)

/* ---- pruning ---------------------------------------------------------- */

struct frame {
    uint32_t dir;
    uint32_t is_scanned;
};

static int push(struct fl_extract *x, uint32_t dir, struct fl_error *err)
{
    struct frame f = {dir, 0};

    return fl_buf_add(&x->stack, &f, sizeof(f), NULL, err);
}

/* Removes what is no work of this layer; directories that this layer has been in are pushed. */
static int scan(struct fl_extract *x, uint32_t dir, uint64_t mount, struct fl_error *err)
{
    int fd = fl_path_fd(&x->path, dir, err);
    const char *name, *end;

    x->list.len = 0;
    if (fd < 0 || fl_remove_check_mount(fd, mount, err) < 0 || fl_remove_list(&x->remove, fd, &x->list, err) < 0)
        return -1;
    name = (const char *)x->list.data;
    for (end = name + x->list.len; name < end; name += strlen(name) + 1) {
        const struct fl_seen_slot *slot = fl_seen_find(&x->path.seen, dir, name, strlen(name));

        if (fl_work_check(&x->work.stop, err) < 0)
            return -1;
        if (slot != NULL && slot->dir != 0) {
            if (push(x, slot->dir, err) < 0)
                return -1;
        } else if (slot == NULL || !(slot->flags & FL_SEEN_MADE)) {
            fl_extract_dir(x, dir)->flags |= FL_DIR_TOUCHED;
            if (fl_remove_at(&x->remove, fd, name, err) < 0)
                return -1;
        }
    }
    return 0;
}

/* A lower directory without an entry goes when it is empty now; else it is there for what is below it. */
static int drop_or_imply(struct fl_extract *x, uint32_t dir, struct fl_error *err)
{
    const struct fl_dir *d = fl_extract_dir(x, dir);
    const char *name = (const char *)x->path.names.data + d->name_off;
    int fd;

    if (d->flags & FL_DIR_ENTRY)
        return 0;
    fd = fl_path_fd(&x->path, d->parent, err);
    if (fd < 0)
        return -1;
    if (unlinkat(fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT) {
        fl_extract_dir(x, d->parent)->flags |= FL_DIR_TOUCHED;
        fl_path_forget(&x->path, d->parent, name, strlen(name));
        return 0;
    }
    if (errno != ENOTEMPTY && errno != EEXIST)
        return fl_error_os(err, errno, "rmdir", NULL, 0);
    return fl_owner_dir(x, dir, NULL, err);
}

/* Removes everything of lower layers below `top`, and top itself (where this layer did nothing) when `itself`.
 * A clean directory has nothing lower in it, but may be a lower one itself: an opaque marker came before. */
static int prune(struct fl_extract *x, uint32_t top, bool itself, struct fl_error *err)
{
    int base = fl_path_fd(&x->path, itself ? fl_extract_dir(x, top)->parent : top, err);
    uint64_t mount;

    if (base < 0)
        return -1;
    if (fl_sys_mount_id(base, &mount) < 0)
        return fl_error_os(err, errno, "statx", NULL, 0);
    x->stack.len = 0;
    if (push(x, top, err) < 0)
        return -1;
    while (x->stack.len != 0) {
        struct frame *f = (struct frame *)(void *)(x->stack.data + x->stack.len) - 1;
        uint32_t dir = f->dir;

        if (!f->is_scanned) {
            f->is_scanned = 1;
            if (!(fl_extract_dir(x, dir)->flags & FL_DIR_CLEAN) && scan(x, dir, mount, err) < 0)
                return -1;
            continue;
        }
        x->stack.len -= sizeof(*f);
        fl_extract_dir(x, dir)->flags |= FL_DIR_CLEAN;
        if ((dir != top || itself) && drop_or_imply(x, dir, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- markers in the storage format ------------------------------------ */

static int marker_name(const struct fl_place *at, char ret[NAME_MAX + 1], struct fl_error *err)
{
    if (at->len + MARKER_PREFIX_LEN > NAME_MAX)
        return fl_error_os(err, ENAMETOOLONG, "open", NULL, 0);
    memcpy(ret, MARKER_PREFIX, MARKER_PREFIX_LEN);
    memcpy(ret + MARKER_PREFIX_LEN, at->name, at->len + 1);
    return 0;
}

static int make_empty(int dir, const char *name, struct fl_error *err)
{
    int fd = openat(dir, name, NEW_FILE, 0444);

    if (fd >= 0)
        close(fd);
    return fd < 0 && errno != EEXIST ? fl_error_os(err, errno, "open", NULL, 0) : 0;
}

/* What was written down, and the directories made for it, a later marker above must find and remove. */
void fl_whiteout_note(struct fl_extract *x, uint32_t dir)
{
    fl_extract_dir(x, dir)->flags |= FL_DIR_TOUCHED;
    for (; dir != 0; dir = fl_extract_dir(x, dir)->parent)
        fl_extract_dir(x, dir)->flags &= ~FL_DIR_CLEAN;
    fl_extract_dir(x, 0)->flags &= ~FL_DIR_CLEAN;
}

int fl_whiteout_set_opaque(struct fl_extract *x, uint32_t dir, struct fl_error *err)
{
    int fd = fl_path_fd(&x->path, dir, err);

    if (fd < 0)
        return -1;
    fl_extract_dir(x, dir)->flags |= FL_DIR_OPAQUE | FL_DIR_OPAQUE_KNOWN;
    if (x->is_overlay)
        return fsetxattr(fd, x->xattr_opaque, "y", 1, 0) < 0 ? fl_error_os(err, errno, "setxattr", NULL, 0) : 0;
    fl_whiteout_note(x, dir);
    return make_empty(fd, OPAQUE_MARKER, err);
}

int fl_whiteout_reveal(struct fl_extract *x, struct fl_place at, struct fl_error *err)
{
    char marker[NAME_MAX + 1];
    int fd;

    if (x->opt.format != FL_FORMAT_AUFS || at.len + MARKER_PREFIX_LEN > NAME_MAX)
        return 0;
    fd = fl_path_fd(&x->path, at.dir, err);
    if (fd < 0 || marker_name(&at, marker, err) < 0)
        return -1;
    if (unlinkat(fd, marker, 0) < 0)
        return errno == ENOENT ? 0 : fl_error_os(err, errno, "unlink", NULL, 0);
    fl_extract_dir(x, at.dir)->flags |= FL_DIR_TOUCHED;
    return 1;
}

static bool is_overlay_whiteout(const struct fl_extract *x, int dir, const char *name, const struct stat *st)
{
    cleanup_fd int fd = -1;

    if (S_ISCHR(st->st_mode))
        return st->st_rdev == 0;
    if (x->opt.format != FL_FORMAT_OVERLAY_USERXATTR || !S_ISREG(st->st_mode) || st->st_size != 0)
        return false;
    fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    return fd >= 0 && fgetxattr(fd, x->xattr_whiteout, NULL, 0) >= 0;
}

int fl_whiteout_is_hidden(struct fl_extract *x, struct fl_place at, struct fl_error *err)
{
    char marker[NAME_MAX + 1];
    const char *name = at.name;
    struct stat st;
    int fd;

    if (!x->keeps_markers || (!x->is_overlay && at.len + MARKER_PREFIX_LEN > NAME_MAX))
        return 0;
    fd = fl_path_fd(&x->path, at.dir, err);
    if (fd < 0 || (!x->is_overlay && marker_name(&at, marker, err) < 0))
        return -1;
    if (!x->is_overlay)
        name = marker;
    if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : fl_error_os(err, errno, "fstatat", NULL, 0);
    return x->is_overlay ? is_overlay_whiteout(x, fd, name, &st) : 1;
}

/* The form for those who may not make devices; its directory must say that there are such. */
static int make_xattr_whiteout(struct fl_extract *x, struct fl_place at, int dir, struct fl_error *err)
{
    struct fl_dir *d = fl_extract_dir(x, at.dir);
    cleanup_fd int fd = openat(dir, at.name, NEW_FILE, 0600);

    if (fd < 0)
        return fl_error_os(err, errno, "open", NULL, 0);
    if (fsetxattr(fd, x->xattr_whiteout, "y", 1, 0) < 0)
        return fl_error_os(err, errno, "setxattr", NULL, 0);
    if (!(d->flags & FL_DIR_XWHITEOUTS) && fsetxattr(dir, x->xattr_opaque, "x", 1, 0) < 0)
        return fl_error_os(err, errno, "setxattr", NULL, 0);
    d->flags |= FL_DIR_XWHITEOUTS;
    return 0;
}

static int make_whiteout(struct fl_extract *x, struct fl_place at, struct fl_error *err)
{
    char marker[NAME_MAX + 1];
    int fd = fl_path_fd(&x->path, at.dir, err);

    if (fd < 0)
        return -1;
    fl_extract_dir(x, at.dir)->flags |= FL_DIR_TOUCHED;
    if (!x->is_overlay)
        return marker_name(&at, marker, err) < 0 ? -1 : make_empty(fd, marker, err);
    if (mknodat(fd, at.name, S_IFCHR, 0) == 0)
        return 0;
    if (errno == EPERM && x->opt.format == FL_FORMAT_OVERLAY_USERXATTR)
        return make_xattr_whiteout(x, at, fd, err);
    return fl_error_os(err, errno, "mknod", NULL, 0);
}

static int is_opaque(struct fl_extract *x, uint32_t dir, struct fl_error *err)
{
    struct fl_dir *d = fl_extract_dir(x, dir);
    struct stat st;
    char value;

    if (!(d->flags & FL_DIR_OPAQUE_KNOWN)) {
        int fd = fl_path_fd(&x->path, dir, err);

        if (fd < 0)
            return -1;
        d->flags |= FL_DIR_OPAQUE_KNOWN;
        if (x->is_overlay ? fgetxattr(fd, x->xattr_opaque, &value, 1) == 1 && value == 'y'
                          : fstatat(fd, OPAQUE_MARKER, &st, AT_SYMLINK_NOFOLLOW) == 0)
            d->flags |= FL_DIR_OPAQUE;
    }
    return (d->flags & FL_DIR_OPAQUE) != 0;
}

/* Where nothing of lower layers shows, a whiteout would be litter. */
static int is_below_opaque(struct fl_extract *x, uint32_t dir, struct fl_error *err)
{
    int r;

    while ((r = is_opaque(x, dir, err)) == 0 && dir != 0)
        dir = fl_extract_dir(x, dir)->parent;
    return r;
}

/* Writes down that lower layers do not show at the place, whatever is there now. */
static int write_down(struct fl_extract *x, struct fl_place at, struct fl_error *err)
{
    uint32_t dir;
    int found = fl_path_enter(&x->path, at.dir, at.name, at.len, &dir, err), hidden;

    if (found < 0)
        return -1;
    if (found == 1)
        return fl_whiteout_set_opaque(x, dir, err);
    if (found == 2)
        return 0;
    hidden = is_below_opaque(x, at.dir, err);
    return hidden != 0 ? (hidden < 0 ? -1 : 0) : make_whiteout(x, at, err);
}

/* ---- the two markers -------------------------------------------------- */

static int hide_name(struct fl_extract *x, struct fl_place at, struct fl_error *err)
{
    bool is_clean = fl_extract_dir(x, at.dir)->flags & FL_DIR_CLEAN;
    const struct fl_seen_slot *slot;
    int r = 0;

    if (is_clean && !x->keeps_markers)
        return 0;
    slot = fl_seen_find(&x->path.seen, at.dir, at.name, at.len);
    if (slot != NULL && slot->dir != 0)
        r = prune(x, slot->dir, true, err);
    else if (!is_clean && (slot == NULL || !(slot->flags & FL_SEEN_MADE)))
        r = fl_extract_vacate(x, at, err);
    if (r < 0)
        return -1;
    return x->keeps_markers ? write_down(x, at, err) : 0;
}

static int hide_children(struct fl_extract *x, uint32_t dir, struct fl_error *err)
{
    if (prune(x, dir, false, err) < 0)
        return -1;
    if (x->is_overlay && dir == 0)
        x->stats.root_is_opaque = x->stats.needs_lower = true;
    return x->keeps_markers ? fl_whiteout_set_opaque(x, dir, err) : 0;
}

int fl_whiteout_apply(struct fl_extract *x, struct fl_error *err)
{
    struct fl_place at = {0, x->name.base, x->name.base_len};
    int r = fl_extract_parent(x, &x->name, x->keeps_markers, false, &at.dir, err);

    if (r <= 0)
        return r;
    r = x->name.kind == FL_NAME_OPAQUE ? hide_children(x, at.dir, err) : hide_name(x, at, err);
    if (x->keeps_markers)
        fl_whiteout_note(x, at.dir);
    return r;
}
