/* Attributes: owner, mode, extended attributes, times, in this order: chown
 * clears set-id bits and capabilities, chmod changes the mask of an ACL. Only
 * user.* attributes come before chmod, which may take away the permission for them.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/xattr.h>

#include "fl_extract_private.h"
#include "fl_sys.h"

#define ACL_ACCESS "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"
#define SELINUX "security.selinux"
#define IMPLIED_MODE 0755
#define USABLE 0700
#define SET_IDS 06000

/* Something with attributes: an open object (name NULL), or a name in an open directory. */
struct thing {
    int fd;
    const char *name;
};

static int thing_set(struct thing t, const char *attr, const void *value, size_t size)
{
    return t.name == NULL ? fsetxattr(t.fd, attr, value, size, 0)
                          : fl_sys_setxattrat(t.fd, t.name, attr, value, size, 0);
}

static int thing_remove(struct thing t, const char *attr)
{
    return t.name == NULL ? fremovexattr(t.fd, attr) : fl_sys_removexattrat(t.fd, t.name, attr);
}

static int thing_chown(struct thing t, uint32_t uid, uint32_t gid)
{
    return t.name == NULL ? fchown(t.fd, uid, gid) : fchownat(t.fd, t.name, uid, gid, AT_SYMLINK_NOFOLLOW);
}

static int thing_chmod(struct thing t, mode_t mode)
{
    return t.name == NULL ? fchmod(t.fd, mode) : fl_sys_chmod_nofollow(t.fd, t.name, mode);
}

static int thing_stat(struct thing t, struct stat *st)
{
    return t.name == NULL ? fstat(t.fd, st) : fstatat(t.fd, t.name, st, AT_SYMLINK_NOFOLLOW);
}

/* ---- what was lost ---------------------------------------------------- */

int fl_owner_lose(struct fl_extract *x, enum fl_extract_loss kind, const char *name, const struct fl_tar_entry *e,
                  struct fl_error *err)
{
    struct fl_extract_lost *lost = &x->stats.lost[kind];

    if (kind != FL_LOSS_SETID && kind != FL_LOSS_DEVICE)
        x->stats.skipped_xattrs++;
    if (lost->count++ != 0)
        return 0;
    if (fl_buf_add(&lost->example, name, strlen(name) + 1, NULL, err) < 0)
        return -1;
    return e == NULL ? 0 : fl_buf_add(&lost->example, e->path, e->path_len, NULL, err);
}

/* After a failed xattr call. */
static int lose_or_fail(struct fl_extract *x, const char *op, const char *name, const struct fl_tar_entry *e,
                        struct fl_error *err)
{
    if (errno == EPERM)
        return fl_owner_lose(x, FL_LOSS_EPERM, name, e, err);
    if (errno == EOPNOTSUPP)
        return fl_owner_lose(x, FL_LOSS_ENOTSUP, name, e, err);
    return fl_error_os(err, errno, op, NULL, 0);
}

/* ---- owner and mode --------------------------------------------------- */

struct owner {
    uint32_t uid;
    uint32_t gid;
};

static int map_id(const struct fl_id_map *map, uint32_t id, const char *what, uint32_t *ret, struct fl_error *err)
{
    *ret = id;
    if (map->count == 0)
        return 0;
    for (uint32_t i = 0; i < map->count; i++) {
        const struct fl_id_range *r = &map->ranges[i];

        if (id >= r->inside && id - r->inside < r->count) {
            *ret = r->outside + (id - r->inside);
            return 0;
        }
    }
    return fl_error_set(err, FL_ERR_UNSAFE, NULL, 0, "%s %u is not in the %s map", what, id, what);
}

/* The owner an entry is to have; root when there is no entry. */
static int wanted_owner(const struct fl_extract *x, const struct fl_tar_entry *e, struct owner *ret, struct fl_error *err)
{
    if (map_id(&x->opt.uid_map, e ? e->uid : 0, "uid", &ret->uid, err) < 0)
        return -1;
    return map_id(&x->opt.gid_map, e ? e->gid : 0, "gid", &ret->gid, err);
}

/* Changes the owner when it differs; *have is who it is then. A mode whose owner could not be set loses its set-id bits. */
static int give(struct fl_extract *x, struct thing t, struct owner *have, struct owner want, mode_t *mode,
                const struct fl_tar_entry *e, struct fl_error *err)
{
    if ((have->uid == want.uid && have->gid == want.gid) || thing_chown(t, want.uid, want.gid) == 0) {
        *have = want;
        return 0;
    }
    if (!x->opt.ignore_chown || (errno != EPERM && errno != EINVAL)) /* EINVAL: not mapped in this user namespace */
        return fl_error_os(err, errno, "chown", NULL, 0);
    if ((*mode & SET_IDS) == 0)
        return 0;
    *mode &= ~(mode_t)SET_IDS;
    return fl_owner_lose(x, FL_LOSS_SETID, "", e, err);
}

/* ---- extended attributes ---------------------------------------------- */

struct xattr {
    uint16_t name_len;
    uint32_t value_len;
    char name[256];
    const uint8_t *value;
};

/* The next one of an fl_entry.h blob; false at its end. The reader keeps names within 255 bytes. */
static bool next_xattr(const struct fl_tar_entry *e, uint32_t *at, struct xattr *ret)
{
    const uint8_t *p = e->xattrs + *at;

    if (*at >= e->xattr_len)
        return false;
    memcpy(&ret->name_len, p, sizeof(ret->name_len));
    memcpy(&ret->value_len, p + 2, sizeof(ret->value_len));
    memcpy(ret->name, p + 6, ret->name_len);
    ret->name[ret->name_len] = '\0';
    ret->value = p + 6 + ret->name_len;
    *at += 6u + ret->name_len + ret->value_len;
    return true;
}

static bool has_prefix(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool is_of_format(const struct fl_extract *x, const char *name)
{
    return x->xattr_prefix != NULL && has_prefix(name, x->xattr_prefix);
}

/* Of the host or the storage format, not of any layer: neither set nor replaced nor removed. */
static bool is_hosts(const struct fl_extract *x, const char *name)
{
    return has_prefix(name, "trusted.") || has_prefix(name, "btrfs.") || strcmp(name, SELINUX) == 0 ||
           is_of_format(x, name);
}

static int set_one(struct fl_extract *x, struct thing t, const struct xattr *a, const struct fl_tar_entry *e,
                   struct fl_error *err)
{
    if (thing_set(t, a->name, a->value, a->value_len) == 0)
        return 0;
    return lose_or_fail(x, "setxattr", a->name, e, err);
}

static int set_user_xattrs(struct fl_extract *x, struct thing t, const struct fl_tar_entry *e, struct fl_error *err)
{
    struct xattr a;
    uint32_t at = 0;

    while (next_xattr(e, &at, &a))
        if (has_prefix(a.name, "user.") && !is_hosts(x, a.name) && set_one(x, t, &a, e, err) < 0)
            return -1;
    return 0;
}

/* All others. */
static int set_other_xattrs(struct fl_extract *x, struct thing t, const struct fl_tar_entry *e, struct fl_error *err)
{
    struct xattr a;
    uint32_t at = 0;
    int r = 0;

    while (r == 0 && next_xattr(e, &at, &a)) {
        if (is_hosts(x, a.name))
            r = fl_owner_lose(x, FL_LOSS_POLICY, a.name, e, err);
        else if (!has_prefix(a.name, "user."))
            r = set_one(x, t, &a, e, err);
    }
    return r;
}

/* ---- what is inherited ------------------------------------------------ */

static int has_default_acl(struct fl_extract *x, uint32_t dir, bool *ret, struct fl_error *err)
{
    struct fl_dir *d = fl_extract_dir(x, dir);

    if (!(d->flags & FL_DIR_ACL_KNOWN)) {
        int fd = fl_path_fd(&x->path, dir, err);

        if (fd < 0)
            return -1;
        d->flags |= FL_DIR_ACL_KNOWN;
        if (fgetxattr(fd, ACL_DEFAULT, NULL, 0) > 0)
            d->flags |= FL_DIR_ACL;
    }
    *ret = (d->flags & FL_DIR_ACL) != 0;
    return 0;
}

int fl_owner_create_mode(struct fl_extract *x, uint32_t dir, const struct fl_tar_entry *e, mode_t *ret_mode,
                         struct fl_error *err)
{
    bool acl;

    if (has_default_acl(x, dir, &acl, err) < 0)
        return -1;
    *ret_mode = acl || e->xattr_len != 0 || (e->mode & (07000u | x->umask)) != 0 ? 0 : e->mode;
    return 0;
}

/* The owner that new things in the directory have, asked of the first one: setgid, mount options and mappings decide. */
static int born_owner(struct fl_dir *d, struct thing t, struct owner *ret, struct fl_error *err)
{
    struct stat st;

    if (!(d->flags & FL_DIR_BORN)) {
        if (thing_stat(t, &st) < 0)
            return fl_error_os(err, errno, "stat", NULL, 0);
        d->born_uid = st.st_uid;
        d->born_gid = st.st_gid;
        d->flags |= FL_DIR_BORN;
    }
    *ret = (struct owner){d->born_uid, d->born_gid};
    return 0;
}

/* Owner, mode and xattrs of something just made in directory `dir` with mode `created`. */
static int describe(struct fl_extract *x, struct thing t, uint32_t dir, mode_t created, const struct fl_tar_entry *e,
                    struct fl_error *err)
{
    struct fl_dir *d = fl_extract_dir(x, dir);
    bool is_link = e->type == FL_TAR_SYMLINK;
    mode_t mode = is_link ? created : e->mode;
    struct owner have, want;

    if (wanted_owner(x, e, &want, err) < 0 || born_owner(d, t, &have, err) < 0 ||
        give(x, t, &have, want, &mode, e, err) < 0)
        return -1;
    if ((d->flags & FL_DIR_ACL) && !is_link && thing_remove(t, ACL_ACCESS) < 0 && errno != ENODATA)
        return fl_error_os(err, errno, "removexattr", NULL, 0);
    if (e->xattr_len != 0 && x->path.takes_permission && !is_link && thing_chmod(t, USABLE) < 0)
        return fl_error_os(err, errno, "chmod", NULL, 0);
    if (set_user_xattrs(x, t, e, err) < 0)
        return -1;
    if ((mode != created || (e->xattr_len != 0 && !is_link)) && thing_chmod(t, mode) < 0)
        return fl_error_os(err, errno, "chmod", NULL, 0);
    return set_other_xattrs(x, t, e, err);
}

static void entry_times(const struct fl_tar_entry *e, struct timespec ret[2])
{
    ret[0] = ret[1] = (struct timespec){e->mtime_sec, e->mtime_nsec};
}

/* Something with an owner of its own is asked for that, and does not answer for new things. */
static void forget_born(struct fl_extract *x, uint32_t dir)
{
    fl_extract_dir(x, dir)->flags &= ~FL_DIR_BORN;
}

int fl_owner_file(struct fl_extract *x, const struct fl_writing *w, const struct fl_tar_entry *e, struct fl_error *err)
{
    struct timespec times[2];

    if (w->is_donated)
        forget_born(x, w->dir);
    if (describe(x, (struct thing){w->fd, NULL}, w->dir, w->created, e, err) < 0)
        return -1;
    if (w->is_donated)
        forget_born(x, w->dir);
    entry_times(e, times);
    return futimens(w->fd, times) < 0 ? fl_error_os(err, errno, "utimensat", NULL, 0) : 0;
}

int fl_owner_node(struct fl_extract *x, struct fl_place at, mode_t created, const struct fl_tar_entry *e,
                  struct fl_error *err)
{
    struct timespec times[2];
    int fd = fl_path_fd(&x->path, at.dir, err);

    if (fd < 0 || describe(x, (struct thing){fd, at.name}, at.dir, created, e, err) < 0)
        return -1;
    entry_times(e, times);
    if (utimensat(fd, at.name, times, AT_SYMLINK_NOFOLLOW) < 0)
        return fl_error_os(err, errno, "utimensat", NULL, 0);
    return 0;
}

/* ---- directories ------------------------------------------------------ */

static int list_xattrs(struct fl_extract *x, int fd, struct fl_error *err)
{
    ssize_t n;

    x->list.len = 0;
    if (x->list.cap == 0 && fl_buf_reserve(&x->list, 1024, err) < 0)
        return -1;
    while ((n = flistxattr(fd, (char *)x->list.data, x->list.cap)) < 0) {
        if (errno == EOPNOTSUPP)
            return 0;
        if (errno != ERANGE)
            return fl_error_os(err, errno, "listxattr", NULL, 0);
        if (fl_buf_reserve(&x->list, x->list.cap + 1, err) < 0)
            return -1;
    }
    x->list.len = (size_t)n;
    return 0;
}

static bool entry_has_xattr(const struct fl_tar_entry *e, const char *name)
{
    struct xattr a;
    uint32_t at = 0;

    while (e != NULL && next_xattr(e, &at, &a))
        if (strcmp(a.name, name) == 0)
            return true;
    return false;
}

/* Removes what the entry does not have: what was there before, what was inherited. ACLs always: they come back. */
static int remove_stale_xattrs(struct fl_extract *x, int fd, const struct fl_tar_entry *e, bool *ret_acl,
                               struct fl_error *err)
{
    const char *name, *end;

    *ret_acl = false;
    if (list_xattrs(x, fd, err) < 0)
        return -1;
    name = (const char *)x->list.data;
    for (end = name + x->list.len; name < end; name += strlen(name) + 1) {
        bool acl = strcmp(name, ACL_ACCESS) == 0 || strcmp(name, ACL_DEFAULT) == 0;

        *ret_acl |= acl;
        if (is_hosts(x, name) || (!acl && entry_has_xattr(e, name)))
            continue;
        if (fremovexattr(fd, name) < 0 && errno != ENODATA && lose_or_fail(x, "removexattr", name, e, err) < 0)
            return -1;
    }
    return 0;
}

/* Remembers what the directory is to be at the end, and what is known about it now. */
static void note_dir(const struct fl_extract *x, struct fl_dir *d, struct owner now, mode_t mode,
                     const struct fl_tar_entry *e)
{
    d->flags &= ~(FL_DIR_TIMES | FL_DIR_MODE | FL_DIR_BORN | FL_DIR_ACL | FL_DIR_ENTRY);
    d->flags |= FL_DIR_ACL_KNOWN;
    if (entry_has_xattr(e, ACL_DEFAULT))
        d->flags |= FL_DIR_ACL;
    d->uid = now.uid;
    d->gid = now.gid;
    d->mode = (uint16_t)mode;
    if (x->path.takes_permission && (mode & USABLE) != USABLE) { /* until the end we must work in it */
        d->flags |= FL_DIR_MODE;
        d->final_mode = (uint16_t)mode;
        d->mode |= USABLE;
    }
    if (e == NULL)
        return;
    d->flags |= FL_DIR_ENTRY | FL_DIR_TIMES;
    d->mtime_sec = e->mtime_sec;
    d->mtime_nsec = e->mtime_nsec;
}

int fl_owner_dir(struct fl_extract *x, uint32_t dir, const struct fl_tar_entry *e, struct fl_error *err)
{
    struct fl_dir *d = fl_extract_dir(x, dir);
    mode_t mode = e == NULL ? IMPLIED_MODE : e->mode, had = d->mode;
    struct owner have = {d->uid, d->gid}, want;
    int fd = fl_path_fd(&x->path, dir, err);
    struct thing t = {fd, NULL};
    bool acl;

    if (fd < 0 || wanted_owner(x, e, &want, err) < 0 || give(x, t, &have, want, &mode, e, err) < 0 ||
        remove_stale_xattrs(x, fd, e, &acl, err) < 0 || (e != NULL && set_user_xattrs(x, t, e, err) < 0))
        return -1;
    note_dir(x, d, have, mode, e);
    if ((acl || d->mode != had) && fchmod(fd, d->mode) < 0)
        return fl_error_os(err, errno, "chmod", NULL, 0);
    return e == NULL ? 0 : set_other_xattrs(x, t, e, err);
}
