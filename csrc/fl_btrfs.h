/* btrfs: subvolumes, quota groups, and searching trees by generation - the ioctls
 * of linux/btrfs.h and what is made of their answers.
 *
 * Descriptors are directories open for reading (not O_PATH), the caller's. "fd of
 * a subvolume" is its root or anything in it. Names are single components.
 * Errors are FL_ERR_OS with the ioctl as op and no path; ENOTTY means that this
 * is no btrfs, EPERM that searching needs CAP_SYS_ADMIN.
 *
 * A search sees what has reached the tree: fl_btrfs_sync first. `transid` is a
 * transaction of the file system; "since" always means in a later one.
 */
#ifndef FL_BTRFS_H
#define FL_BTRFS_H

#include <stdbool.h>

#include "fl_buf.h"

struct fl_btrfs_info {
    uint64_t id;
    uint64_t generation;     /* of the root node: making a snapshot raises it   */
    uint64_t changed;        /* ctransid: when an inode was last changed        */
    uint64_t created;        /* otransid: when it was made                      */
    int64_t created_sec;     /* the same by the clock, seconds since 1970       */
    bool readonly;
    uint8_t uuid[16];
    uint8_t parent_uuid[16]; /* of what it is a snapshot of, or zeros           */
};

/* ---- subvolumes: csrc/fl_btrfs.c ---- */

int fl_btrfs_create(int dir, const char *name, struct fl_error *err);

/* Returns when the snapshot is on disk, the source's dirty data included. */
int fl_btrfs_snapshot(int dir, const char *name, int source, bool readonly, struct fl_error *err);

/* ENOTEMPTY: there are subvolumes in it. Its space is freed later. */
int fl_btrfs_destroy(int dir, const char *name, struct fl_error *err);

int fl_btrfs_set_readonly(int fd, bool readonly, struct fl_error *err);
int fl_btrfs_info(int fd, struct fl_btrfs_info *ret, struct fl_error *err);

/* Writes out all dirty data of the file system and commits. */
int fl_btrfs_sync(int fd, struct fl_error *err);

/* ---- quota groups 0/ID: csrc/fl_btrfs.c ---- */

/* Enabling what is on already is no error. Counting what is there takes a walk of
 * all extents, which this waits for. */
int fl_btrfs_quota_enable(int fd, struct fl_error *err);

/* exclusive: most bytes that only this subvolume refers to; UINT64_MAX: no limit. */
int fl_btrfs_qgroup_limit(int fd, uint64_t id, uint64_t exclusive, struct fl_error *err);
int fl_btrfs_qgroup_create(int fd, uint64_t id, bool create, struct fl_error *err);

/* 1 and the bytes; 0 when quotas are off or there is no such group. */
int fl_btrfs_qgroup_usage(int fd, uint64_t id, uint64_t *ret_referenced,
                          uint64_t *ret_exclusive, struct fl_error *err);

/* ---- searches: csrc/fl_btrfs_search.c; records are packed, in native order ---- */

struct fl_btrfs_inode {
    uint64_t ino;
    uint64_t generation; /* the transaction that made it                        */
    uint32_t nlink;
    uint32_t mode;
};

/* Appends every inode that was there and has changed since, by number. Anything that
 * changes a file, its attributes or a directory's names puts the transaction into
 * the inode (btrfs_inode_item.transid); leaves that are older are not read. New
 * inodes are left out: each has a name in a directory that is new or has changed.
 * So are those that were only read, which changes their access time: their ctime is
 * still that in `parent`, the subvolume as it was in that transaction, and lies more
 * than a second before `sec`, the time of it (nearer than that a change may have
 * come in the same tick of the clock). */
int fl_btrfs_changed(int fd, int parent, uint64_t transid, int64_t sec, struct fl_buf *ret,
                     struct fl_error *err);

/* Appends { u64 parent inode, u16 length, name } for each name of an inode. */
int fl_btrfs_names(int fd, uint64_t ino, struct fl_buf *ret, struct fl_error *err);

#define FL_BTRFS_IN_A 1u
#define FL_BTRFS_IN_B 2u
#define FL_BTRFS_DIR 4u /* a directory or a subvolume */

/* Appends { u8 FL_BTRFS_*, u16 length, name } for each entry of directory `ino` that
 * one subvolume has and the other has not, or has for another inode (then twice). */
int fl_btrfs_compare_names(int a, int b, uint64_t ino, struct fl_buf *ret, struct fl_error *err);

/* Appends { u64 id, u64 directory inode, u16 length, name } for each subvolume right
 * in the subvolume `id`. */
int fl_btrfs_nested(int fd, uint64_t id, struct fl_buf *ret, struct fl_error *err);

struct fl_btrfs_usage {
    uint64_t bytes;  /* of extents made since, each once, and of data kept in inodes */
    uint64_t inodes; /* made since                                              */
    uint64_t shared; /* bytes in their files of extents that are older or another file's, too */
};

int fl_btrfs_usage(int fd, uint64_t transid, struct fl_btrfs_usage *ret, struct fl_error *err);

#endif
