#include "fl_btrfs.h"

#include <errno.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <sys/ioctl.h>

static int call(int fd, unsigned long request, void *arg, const char *op, struct fl_error *err)
{
    int r;

    do
        r = ioctl(fd, request, arg);
    while (r < 0 && errno == EINTR);
    return r < 0 ? fl_error_os(err, errno, op, NULL, 0) : 0;
}

static int set_name(char *to, size_t room, const char *name, const char *op, struct fl_error *err)
{
    size_t len = strlen(name);

    if (len >= room)
        return fl_error_os(err, ENAMETOOLONG, op, NULL, 0);
    memcpy(to, name, len + 1);
    return 0;
}

/* ---- subvolumes ---- */

int fl_btrfs_create(int dir, const char *name, struct fl_error *err)
{
    struct btrfs_ioctl_vol_args_v2 args = { 0 };

    if (set_name(args.name, sizeof(args.name), name, "create subvolume", err) < 0)
        return -1;
    return call(dir, BTRFS_IOC_SUBVOL_CREATE_V2, &args, "create subvolume", err);
}

int fl_btrfs_snapshot(int dir, const char *name, int source, bool readonly, struct fl_error *err)
{
    struct btrfs_ioctl_vol_args_v2 args = { .fd = source };

    if (readonly)
        args.flags = BTRFS_SUBVOL_RDONLY;
    if (set_name(args.name, sizeof(args.name), name, "snapshot", err) < 0)
        return -1;
    return call(dir, BTRFS_IOC_SNAP_CREATE_V2, &args, "snapshot", err);
}

int fl_btrfs_destroy(int dir, const char *name, struct fl_error *err)
{
    struct btrfs_ioctl_vol_args args = { 0 };

    if (set_name(args.name, sizeof(args.name), name, "delete subvolume", err) < 0)
        return -1;
    return call(dir, BTRFS_IOC_SNAP_DESTROY, &args, "delete subvolume", err);
}

int fl_btrfs_set_readonly(int fd, bool readonly, struct fl_error *err)
{
    uint64_t flags;

    if (call(fd, BTRFS_IOC_SUBVOL_GETFLAGS, &flags, "subvolume flags", err) < 0)
        return -1;
    if (((flags & BTRFS_SUBVOL_RDONLY) != 0) == readonly)
        return 0;
    flags ^= BTRFS_SUBVOL_RDONLY;
    return call(fd, BTRFS_IOC_SUBVOL_SETFLAGS, &flags, "subvolume flags", err);
}

int fl_btrfs_info(int fd, struct fl_btrfs_info *ret, struct fl_error *err)
{
    struct btrfs_ioctl_get_subvol_info_args args = { 0 };

    if (call(fd, BTRFS_IOC_GET_SUBVOL_INFO, &args, "subvolume info", err) < 0)
        return -1;
    ret->id = args.treeid;
    ret->generation = args.generation;
    ret->changed = args.ctransid;
    ret->created = args.otransid;
    ret->created_sec = (int64_t)args.otime.sec;
    ret->readonly = (args.flags & BTRFS_ROOT_SUBVOL_RDONLY) != 0;
    memcpy(ret->uuid, args.uuid, sizeof(ret->uuid));
    memcpy(ret->parent_uuid, args.parent_uuid, sizeof(ret->parent_uuid));
    return 0;
}

int fl_btrfs_sync(int fd, struct fl_error *err)
{
    return call(fd, BTRFS_IOC_SYNC, NULL, "sync", err);
}

/* ---- quota groups ---- */

int fl_btrfs_quota_enable(int fd, struct fl_error *err)
{
    struct btrfs_ioctl_quota_ctl_args args = { .cmd = BTRFS_QUOTA_CTL_ENABLE };

    if (call(fd, BTRFS_IOC_QUOTA_CTL, &args, "enable quotas", err) < 0)
        return -1;
    return call(fd, BTRFS_IOC_QUOTA_RESCAN_WAIT, NULL, "quota rescan", err);
}

int fl_btrfs_qgroup_limit(int fd, uint64_t id, uint64_t exclusive, struct fl_error *err)
{
    struct btrfs_ioctl_qgroup_limit_args args = { .qgroupid = id };

    args.lim.flags = BTRFS_QGROUP_LIMIT_MAX_EXCL;
    args.lim.max_excl = exclusive;
    return call(fd, BTRFS_IOC_QGROUP_LIMIT, &args, "limit quota group", err);
}

int fl_btrfs_qgroup_create(int fd, uint64_t id, bool create, struct fl_error *err)
{
    struct btrfs_ioctl_qgroup_create_args args = { .create = create, .qgroupid = id };

    return call(fd, BTRFS_IOC_QGROUP_CREATE, &args, "quota group", err);
}
