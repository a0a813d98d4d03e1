#include "fl_extract_private.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define NEW_FILE (O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC)
#define TRIES 3 /* somebody else may put things in our way */

/* ---- places ----------------------------------------------------------- */

static struct fl_dir *touch(struct fl_extract *x, uint32_t dir)
{
    struct fl_dir *d = fl_extract_dir(x, dir);

    d->flags |= FL_DIR_TOUCHED;
    return d;
}

/* A directory that has nothing but this layer's entries need not know which they are - unless markers may come,
 * or it may lose that property because a device is left out. */
static int remember(struct fl_extract *x, struct fl_place at, struct fl_error *err)
{
    struct fl_seen_slot *slot;

    if ((touch(x, at.dir)->flags & FL_DIR_CLEAN) && !x->keeps_markers && !x->opt.skip_devices)
        return 0;
    slot = fl_seen_get(&x->path.seen, at.dir, at.name, at.len, err);
    if (slot == NULL)
        return -1;
    slot->flags |= FL_SEEN_MADE;
    return 0;
}

int fl_extract_vacate(struct fl_extract *x, struct fl_place at, struct fl_error *err)
{
    int fd = fl_path_fd(&x->path, at.dir, err), r;

    if (fd < 0)
        return -1;
    touch(x, at.dir);
    fl_path_forget(&x->path, at.dir, at.name, at.len);
    r = fl_remove_at(&x->remove, fd, at.name, err);
    return r > 0 && fl_donor_check(x, err) < 0 ? -1 : r;
}

/* After a failed attempt to make something: 0 = the place is free now, try again; else failed. */
static int make_room(struct fl_extract *x, struct fl_place at, const char *op, int tries, struct fl_error *err)
{
    if (errno != EEXIST || tries == 0)
        return fl_error_os(err, errno, op, NULL, 0);
    return fl_extract_vacate(x, at, err) < 0 ? -1 : 0;
}

/* ---- directories ------------------------------------------------------ */

/* Enters the directory just made; whether it took the place of something decides about opaqueness. */
static int enter_new_dir(struct fl_extract *x, struct fl_place at, bool replaced, uint32_t *ret_dir,
                         struct fl_error *err)
{
    int r = fl_path_enter(&x->path, at.dir, at.name, at.len, ret_dir, err);

    if (r < 0)
        return -1;
    if (r != 1)
        return fl_error_set(err, FL_ERR_CHANGED, NULL, 0, "a new directory was replaced by another process");
    fl_extract_dir(x, *ret_dir)->flags |= FL_DIR_CLEAN | FL_DIR_TOUCHED;
    return replaced && x->keeps_markers ? fl_whiteout_set_opaque(x, *ret_dir, err) : 0;
}

/* Finds or makes the directory. 1 = made, 0 = it was there, -1. */
static int ensure_dir(struct fl_extract *x, struct fl_place at, uint32_t *ret_dir, struct fl_error *err)
{
    int revealed = fl_whiteout_reveal(x, at, err);
    bool replaced = revealed > 0;

    if (revealed < 0)
        return -1;
    for (int tries = TRIES; ; tries--) {
        int fd = fl_path_fd(&x->path, at.dir, err), r;

        if (fd < 0)
            return -1;
        if (mkdirat(fd, at.name, 0700) == 0) {
            touch(x, at.dir);
            return enter_new_dir(x, at, replaced, ret_dir, err) < 0 ? -1 : 1;
        }
        if (errno != EEXIST)
            return fl_error_os(err, errno, "mkdir", NULL, 0);
        r = fl_path_enter(&x->path, at.dir, at.name, at.len, ret_dir, err);
        if (r == 1 || r < 0)
            return r < 0 ? -1 : 0;
        replaced = true;
        errno = EEXIST;
        if (make_room(x, at, "mkdir", tries, err) < 0)
            return -1;
    }
}

/* Makes the directory the walk stopped for, without an entry of its own. One that only a marker wants must go with it. */
static int imply_dir(struct fl_extract *x, bool for_marker, struct fl_error *err)
{
    struct fl_place at = {x->path.at, x->path.name, x->path.name_len};
    uint32_t dir;
    int made = ensure_dir(x, at, &dir, err);

    if (made <= 0)
        return made;
    x->stats.needs_lower |= x->keeps_markers; /* a lower layer may have anything there */
    if (for_marker)
        fl_extract_dir(x, dir)->flags &= ~FL_DIR_CLEAN;
    return fl_owner_dir(x, dir, NULL, err);
}

/* Is the parent that is missing hidden, so that a marker below it would hide nothing? */
static int is_hidden_parent(struct fl_extract *x, struct fl_error *err)
{
    struct fl_place at = {x->path.at, x->path.name, x->path.name_len};

    return x->opt.format == FL_FORMAT_AUFS ? fl_whiteout_is_hidden(x, at, err) : 0;
}

int fl_extract_parent(struct fl_extract *x, const struct fl_name *name, bool make, bool replace, uint32_t *ret_dir,
                      struct fl_error *err)
{
    size_t len = name->kind == FL_NAME_ROOT ? 0 : name->dir_len;
    int stop;

    if (fl_walk_begin(&x->path, (const char *)name->text.data, len, err) < 0)
        return -1;
    while ((stop = fl_walk_next(&x->path, err)) != FL_WALK_DONE) {
        if (stop < 0)
            return -1;
        if (!make || (stop == FL_WALK_BLOCKED && !replace))
            return 0;
        if (!replace && x->path.links != 0) /* behind a link to nothing it is not known what there is to hide */
            return 0;
        if (!replace && (stop = is_hidden_parent(x, err)) != 0)
            return stop < 0 ? -1 : 0;
        if (imply_dir(x, !replace, err) < 0)
            return -1;
    }
    *ret_dir = x->path.at;
    return 1;
}

static int make_dir(struct fl_extract *x, struct fl_place at, const struct fl_tar_entry *e, struct fl_error *err)
{
    uint32_t dir;

    if (ensure_dir(x, at, &dir, err) < 0)
        return -1;
    return fl_owner_dir(x, dir, e, err);
}

static int make_root(struct fl_extract *x, const struct fl_tar_entry *e, struct fl_error *err)
{
    if (e->type != FL_TAR_DIR)
        return fl_error_set(err, FL_ERR_UNSAFE, NULL, 0, "an entry that would replace the root");
    return fl_owner_dir(x, 0, e, err);
}

/* ---- everything else -------------------------------------------------- */

static int make_file(struct fl_extract *x, struct fl_place at, const struct fl_tar_entry *e, struct fl_error *err)
{
    struct fl_writing *w = &x->writing;
    int donated;

    if (fl_owner_create_mode(x, at.dir, e, &w->created, err) < 0)
        return -1;
    w->dir = at.dir;
    w->end = 0;
    w->is_donated = false;
    donated = fl_donor_take(x, at, e, err);
    if (donated != 0)
        return donated < 0 ? -1 : 0;
    for (int tries = TRIES; ; tries--) {
        int fd = fl_path_fd(&x->path, at.dir, err);

        if (fd < 0)
            return -1;
        w->fd = openat(fd, at.name, NEW_FILE, w->created);
        if (w->fd >= 0)
            return 0;
        if (make_room(x, at, "open", tries, err) < 0)
            return -1;
    }
}

static int make_symlink(struct fl_extract *x, struct fl_place at, const struct fl_tar_entry *e, struct fl_error *err)
{
    if (e->link_len >= sizeof(x->target))
        return fl_error_set(err, FL_ERR_UNSAFE, NULL, 0, "the target of a symbolic link is longer than 4095 bytes");
    if (memchr(e->link, '\0', e->link_len) != NULL)
        return fl_error_set(err, FL_ERR_UNSAFE, NULL, 0, "a NUL byte in the target of a symbolic link");
    memcpy(x->target, e->link, e->link_len);
    x->target[e->link_len] = '\0';
    for (int tries = TRIES; ; tries--) {
        int fd = fl_path_fd(&x->path, at.dir, err);

        if (fd < 0)
            return -1;
        if (symlinkat(x->target, fd, at.name) == 0)
            return fl_owner_node(x, at, 0777, e, err);
        if (make_room(x, at, "symlink", tries, err) < 0)
            return -1;
    }
}

/* The entry is not made. Nothing of this layer is in its place, which is free now. 1, or -1. */
static int leave_out(struct fl_extract *x, struct fl_place at, const struct fl_tar_entry *e, struct fl_error *err)
{
    struct fl_seen_slot *slot = fl_seen_get(&x->path.seen, at.dir, at.name, at.len, err);

    if (slot == NULL)
        return -1;
    slot->flags |= FL_SEEN_LEFT | FL_SEEN_MADE;
    fl_whiteout_note(x, at.dir); /* directories made for nothing else go with a marker */
    x->stats.needs_lower |= x->keeps_markers; /* which may have something there that the entry replaces */
    return fl_owner_lose(x, FL_LOSS_DEVICE, "", e, err) < 0 ? -1 : 1;
}

/* 0 = made, 1 = left out, -1. */
static int make_node(struct fl_extract *x, struct fl_place at, mode_t type, dev_t rdev, const struct fl_tar_entry *e,
                     struct fl_error *err)
{
    mode_t created;

    if (fl_owner_create_mode(x, at.dir, e, &created, err) < 0)
        return -1;
    for (int tries = TRIES; ; tries--) {
        int fd = fl_path_fd(&x->path, at.dir, err);

        if (fd < 0)
            return -1;
        if (mknodat(fd, at.name, type | created, rdev) == 0)
            return fl_owner_node(x, at, created, e, err);
        if (errno == EPERM && type != S_IFIFO && x->opt.skip_devices)
            return leave_out(x, at, e, err);
        if (make_room(x, at, type == S_IFIFO ? "mkfifo" : "mknod", tries, err) < 0)
            return -1;
    }
}

static int make_device(struct fl_extract *x, struct fl_place at, const struct fl_tar_entry *e, struct fl_error *err)
{
    bool is_char = e->type == FL_TAR_CHAR;

    if (is_char && x->is_overlay && e->rdev_major == 0 && e->rdev_minor == 0)
        return fl_error_set(err, FL_ERR_UNSAFE, NULL, 0, "device 0:0 would be a whiteout on overlay");
    return make_node(x, at, is_char ? S_IFCHR : S_IFBLK, makedev(e->rdev_major, e->rdev_minor), e, err);
}

/* ---- hard links ------------------------------------------------------- */

static int refuse_link(const char *why, struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_UNSAFE, NULL, 0, "%s", why);
}

static bool was_left_out(const struct fl_extract *x, const struct fl_place *at)
{
    const struct fl_seen_slot *slot = fl_seen_find(&x->path.seen, at->dir, at->name, at->len);

    return slot != NULL && (slot->flags & FL_SEEN_LEFT);
}

/* The link's target is not there. 1 = because it was left out, -1. */
static int miss_target(const struct fl_extract *x, const struct fl_place *at, struct fl_error *err)
{
    return was_left_out(x, at) ? 1 : refuse_link("hard link to a file that is not there", err);
}

/* The place of the link's target: it must be something that can be linked. 1 = it was left out, 0, -1. */
static int find_target(struct fl_extract *x, const struct fl_tar_entry *e, struct fl_place *ret, struct fl_error *err)
{
    struct stat st;
    int fd, r;

    if (fl_name_parse(&x->link, e->link, e->link_len, err) < 0)
        return -1;
    if (x->link.kind != FL_NAME_PLAIN)
        return refuse_link("hard link to what is no file", err);
    r = fl_extract_parent(x, &x->link, false, false, &ret->dir, err);
    if (r <= 0)
        return r < 0 ? -1 : refuse_link("hard link to a file that is not there", err);
    ret->name = x->link.base;
    ret->len = x->link.base_len;
    fd = fl_path_fd(&x->path, ret->dir, err);
    if (fd < 0)
        return -1;
    if (fstatat(fd, ret->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? miss_target(x, ret, err) : fl_error_os(err, errno, "fstatat", NULL, 0);
    r = S_ISDIR(st.st_mode) ? 1 : fl_whiteout_is_hidden(x, *ret, err);
    return r <= 0 ? r : refuse_link(S_ISDIR(st.st_mode) ? "hard link to a directory" : "hard link to a whiteout", err);
}

static int make_hardlink(struct fl_extract *x, struct fl_place at, const struct fl_tar_entry *e, struct fl_error *err)
{
    struct fl_place target = {0};
    int missing = find_target(x, e, &target, err);

    if (missing < 0)
        return -1;
    if (target.dir == at.dir && target.len == at.len && memcmp(target.name, at.name, at.len) == 0)
        return refuse_link("hard link to itself", err);
    if (fl_whiteout_reveal(x, at, err) < 0)
        return -1;
    if (missing)
        return fl_extract_vacate(x, at, err) < 0 ? -1 : leave_out(x, at, e, err);
    for (int tries = TRIES; ; tries--) {
        int from = fl_path_fd(&x->path, target.dir, err);
        int to = from < 0 ? -1 : fl_path_fd(&x->path, at.dir, err);

        if (to < 0)
            return -1;
        if (linkat(from, target.name, to, at.name, 0) == 0)
            return 0;
        if (errno == ENOENT)
            return refuse_link("hard link to what it replaces", err);
        if (make_room(x, at, "link", tries, err) < 0)
            return -1;
        if (fl_path_is_gone(&x->path, target.dir))
            return refuse_link("hard link to what it replaces", err);
    }
}

/* ---- dispatch --------------------------------------------------------- */

/* 0 = made, 1 = left out, -1. */
static int make_other(struct fl_extract *x, struct fl_place at, const struct fl_tar_entry *e, struct fl_error *err)
{
    if (e->type != FL_TAR_HARDLINK && fl_whiteout_reveal(x, at, err) < 0) /* it looks at its target first */
        return -1;
    switch (e->type) {
    case FL_TAR_FILE:
        return make_file(x, at, e, err);
    case FL_TAR_HARDLINK:
        return make_hardlink(x, at, e, err);
    case FL_TAR_SYMLINK:
        return make_symlink(x, at, e, err);
    case FL_TAR_CHAR:
    case FL_TAR_BLOCKDEV:
        return make_device(x, at, e, err);
    case FL_TAR_FIFO:
        return make_node(x, at, S_IFIFO, 0, e, err);
    default:
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "entry of a type the reader should have refused");
    }
}

int fl_extract_entry(struct fl_extract *x, const struct fl_tar_entry *e, struct fl_error *err)
{
    struct fl_place at = {0, x->name.base, x->name.base_len};
    int r;

    if (x->name.kind == FL_NAME_ROOT)
        return make_root(x, e, err);
    if (fl_extract_parent(x, &x->name, true, true, &at.dir, err) < 0)
        return -1;
    if (e->type == FL_TAR_DIR)
        return make_dir(x, at, e, err);
    r = make_other(x, at, e, err);
    if (r != 0)
        return r < 0 ? -1 : 0;
    return remember(x, at, err);
}
