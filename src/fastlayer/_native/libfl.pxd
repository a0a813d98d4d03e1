# The only declarations of csrc. One section per header; add to the section of your header.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

# ---- fl_error.h -------------------------------------------------------------------------------
cdef extern from "fl_error.h" nogil:
    enum:
        FL_ERR_NONE
        FL_ERR_OS
        FL_ERR_FORMAT
        FL_ERR_UNSAFE
        FL_ERR_LIMIT
        FL_ERR_CHANGED
        FL_ERR_MEMORY
        FL_ERR_USAGE
    struct fl_error:
        int kind
        int errnum
        const char *op
        int64_t offset
        uint32_t path_len
        char path[4096]
        char detail[160]
    void fl_error_path(fl_error *err, const void *path, size_t path_len)

# ---- fl_buf.h ---------------------------------------------------------------------------------
cdef extern from "fl_buf.h" nogil:
    struct fl_buf:
        uint8_t *data
        size_t len
        size_t cap
    void fl_buf_free(fl_buf *b)

# ---- fl_entry.h -------------------------------------------------------------------------------
cdef extern from "fl_entry.h" nogil:
    struct fl_entry:
        uint64_t dev
        uint64_t ino
        uint64_t size
        int64_t mtime_sec
        int64_t ctime_sec
        uint64_t path_off
        uint32_t mtime_nsec
        uint32_t ctime_nsec
        uint32_t mode
        uint32_t uid
        uint32_t gid
        uint32_t nlink
        uint32_t rdev_major
        uint32_t rdev_minor
        uint32_t path_len
        uint32_t link_len
        uint32_t xattr_len
        uint32_t flags
    struct fl_row:
        uint64_t ino
        uint64_t size
        int64_t mtime_sec
        uint64_t path_off
        uint32_t mtime_nsec
        uint32_t uid
        uint32_t gid
        uint32_t path_len
        uint32_t xattr_len
        uint32_t leader
        uint16_t mode
        uint16_t link_len
        uint16_t what
        uint8_t kind
        uint8_t flags
    enum:
        FL_ENTRY_HAS_KEY
        FL_ENTRY_NO_CTIME
        FL_KIND_NONE
        FL_KIND_PARENT
        FL_KIND_ADD
        FL_KIND_MODIFY
        FL_KIND_DELETE
        FL_ROW_VERIFY
        FL_ROW_GROUP
        FL_ROW_AUX
        FL_ROW_KEY
        FL_NO_LEADER

# ---- fl_changes.h -----------------------------------------------------------------------------
cdef extern from "fl_changes.h" nogil:
    struct fl_changes:
        fl_row *rows
        uint32_t count
        uint32_t cap
        fl_buf heap
        uint32_t *order
        uint64_t skipped_sockets
        uint64_t dropped_xattrs
        fl_buf dropped
    int fl_changes_add(fl_changes *t, const void *path, uint32_t path_len, const void *link, uint32_t link_len,
                       const void *xattrs, uint32_t xattr_len, fl_row **ret_row, fl_error *err)
    int fl_changes_finish(fl_changes *t, const uint32_t *group, fl_error *err)
    void fl_changes_free(fl_changes *t)

# ---- fl_builder.h -----------------------------------------------------------------------------
cdef extern from "fl_builder.h" nogil:
    struct fl_builder_row:
        uint8_t kind
        bint is_range
        uint32_t mode
        uint32_t uid
        uint32_t gid
        uint32_t mtime_nsec
        uint32_t rdev_major
        uint32_t rdev_minor
        uint32_t path_len
        uint32_t link_len
        uint32_t source_len
        uint32_t root
        uint32_t group
        int64_t mtime_sec
        uint64_t size
        uint64_t offset
        uint64_t ctime_ns
        const uint8_t *path
        const uint8_t *link
        const uint8_t *source
    struct fl_builder:
        fl_changes table
    int fl_builder_xattr(fl_builder *b, const void *name, size_t name_len, const void *value, size_t value_len,
                         fl_error *err)
    int fl_builder_add(fl_builder *b, const fl_builder_row *row, fl_error *err)
    int fl_builder_finish(fl_builder *b, fl_error *err)
    void fl_builder_free(fl_builder *b)

# ---- fl_sys.h ---------------------------------------------------------------------------------

# ---- fl_walk.h, fl_diff.h ---------------------------------------------------------------------
cdef extern from "fl_xattr.h" nogil:
    enum fl_xattr_policy:
        FL_XATTR_ALL
        FL_XATTR_DOCKER
        FL_XATTR_NONE

cdef extern from "fl_pick.h" nogil:
    struct fl_pick_keys:
        const char *data
        size_t len

cdef extern from "fl_table.h" nogil:
    enum:
        FL_TABLE_KEY_LEN
    struct fl_columns:
        uint64_t count
        const uint64_t *dev
        const uint64_t *ino
        const uint64_t *size
        const int64_t *mtime_sec
        const int64_t *ctime_sec
        const uint64_t *path_off
        const uint32_t *mtime_nsec
        const uint32_t *ctime_nsec
        const uint32_t *mode
        const uint32_t *uid
        const uint32_t *gid
        const uint32_t *nlink
        const uint32_t *rdev_major
        const uint32_t *rdev_minor
        const uint32_t *path_len
        const uint32_t *link_len
        const uint32_t *xattr_len
        const uint32_t *flags
        const uint8_t *heap
        uint64_t heap_len
        const uint8_t *key
        const uint64_t *data_off
        int64_t racy_ns

cdef extern from "fl_compare.h" nogil:
    struct fl_content:
        uint64_t bytes

cdef extern from "fl_diff.h" nogil:
    enum fl_diff_compare:
        FL_DIFF_AUTO
        FL_DIFF_METADATA
        FL_DIFF_CONTENT
    struct fl_diff_operand:
        int root
        const fl_columns *columns
    struct fl_diff_options:
        fl_diff_operand a
        fl_diff_operand b
        fl_diff_compare compare
        fl_xattr_policy xattrs
        bint details
        bint threaded
        const fl_pick_keys *only
        int64_t shared_until_ns
    struct fl_diff_unverified:
        uint32_t row
        uint32_t entry
        uint32_t settled
    struct fl_diff:
        fl_changes table
        uint32_t settled
        uint64_t entries
        uint64_t assumed
        fl_content content
    int fl_diff_init(fl_diff *d, const fl_diff_options *options, fl_error *err)
    void fl_diff_free(fl_diff *d)
    int fl_diff_step(fl_diff *d, fl_error *err)
    uint32_t fl_diff_unverified_count(const fl_diff *d)
    fl_diff_unverified *fl_diff_unverified_at(fl_diff *d, uint64_t ticket)
    const uint8_t *fl_diff_unverified_key(const fl_diff *d, const fl_diff_unverified *u)
    int fl_diff_settle(fl_diff *d, uint64_t ticket, bint equal, fl_error *err)
    int fl_diff_finish(fl_diff *d, fl_error *err)

cdef extern from "fl_scan.h" nogil:
    struct fl_scan:
        fl_buf records
        fl_buf heap
        uint64_t entries
        uint64_t skipped_sockets
        uint64_t dropped_xattrs
    struct fl_scan_options:
        fl_xattr_policy policy
        const fl_pick_keys *only
        const void *ignore
        size_t ignore_len
    int fl_scan_init(fl_scan *s, int root_fd, const fl_scan_options *options, fl_error *err)
    void fl_scan_free(fl_scan *s)
    int fl_scan_next(fl_scan *s, uint32_t max, fl_error *err)
    struct fl_read_many:
        pass
    void fl_read_many_init(fl_read_many *r, int root_fd)
    void fl_read_many_free(fl_read_many *r)
    int fl_read_many_next(fl_read_many *r, const uint8_t *path, uint32_t len, uint8_t *buf, size_t room,
                          int64_t *ret_len, fl_error *err)

# ---- fl_upper.h -------------------------------------------------------------------------------
cdef extern from "fl_upper.h" nogil:
    struct fl_upper_options:
        int upper
        const int *lowers
        uint32_t lower_count
        fl_diff_compare compare
        fl_xattr_policy xattrs
        bint userxattr
        bint details
    struct fl_upper:
        fl_changes table
        uint64_t entries
        fl_content content
    int fl_upper_init(fl_upper *u, const fl_upper_options *options, fl_error *err)
    void fl_upper_free(fl_upper *u)
    int fl_upper_step(fl_upper *u, fl_error *err)
    int fl_upper_finish(fl_upper *u, fl_error *err)
    int fl_upper_old(fl_upper *u, const char *path, uint32_t *ret_layer, const uint8_t **ret_path, size_t *ret_len,
                     fl_error *err)

# ---- fl_encode.h ------------------------------------------------------------------------------
cdef extern from "fl_encode.h" nogil:
    struct fl_encode:
        uint64_t entries
        uint64_t payload
    int fl_encode_init(fl_encode *e, const fl_changes *table, const int *roots, uint32_t root_count,
                       const int64_t *clamp, fl_error *err)
    void fl_encode_free(fl_encode *e)
    Py_ssize_t fl_encode_read(fl_encode *e, uint8_t *buf, size_t cap, fl_error *err)

# ---- fl_tar.h ---------------------------------------------------------------------------------
cdef extern from "fl_tar.h" nogil:
    struct fl_tar_entry:
        uint8_t type
        bint sparse
        uint32_t mode
        uint32_t uid
        uint32_t gid
        uint32_t mtime_nsec
        int64_t mtime_sec
        uint64_t size
        uint32_t rdev_major
        uint32_t rdev_minor
        const uint8_t *path
        const uint8_t *link
        const uint8_t *xattrs
        uint32_t path_len
        uint32_t link_len
        uint32_t xattr_len
        int64_t offset
        int64_t data_offset
    enum:
        FL_TAR_ENTRY
        FL_TAR_DATA
        FL_TAR_FILE_END
        FL_TAR_END
    struct fl_tar_event:
        int kind
        const fl_tar_entry *entry
        const uint8_t *data
        size_t data_len
        uint64_t data_pos
    struct fl_tar_limits:
        uint32_t max_pax
    struct fl_tar:
        int64_t pos
    void fl_tar_init(fl_tar *t, const fl_tar_limits *limits)
    void fl_tar_free(fl_tar *t)
    int fl_tar_next(fl_tar *t, const uint8_t **buf, size_t *len, fl_tar_event *ev, fl_error *err)
    int fl_tar_finish(const fl_tar *t, fl_error *err)

# ---- fl_merge.h -------------------------------------------------------------------------------
cdef extern from "fl_merge.h" nogil:
    enum:
        FL_MERGE_KEY_LEN
    struct fl_merge_limits:
        uint64_t max_entries
        uint64_t max_size
        uint64_t max_file_size
    struct fl_merge:
        uint64_t count
        uint64_t size
        bint sparse
    int fl_merge_init(fl_merge *m, const fl_merge_limits *limits, bint in_place, fl_error *err)
    void fl_merge_free(fl_merge *m)
    void fl_merge_begin_layer(fl_merge *m)
    int fl_merge_put(fl_merge *m, const fl_tar_entry *e, uint32_t *ret_node, uint64_t *ret_off, fl_error *err)
    int fl_merge_set_key(fl_merge *m, uint32_t node, const uint8_t *key, fl_error *err)
    int fl_merge_finish(fl_merge *m, fl_error *err)
    int fl_merge_next(fl_merge *m, fl_entry *ret, fl_buf *heap, uint64_t *ret_data_off, const uint8_t **ret_key,
                      fl_error *err)

# ---- fl_extract.h -----------------------------------------------------------------------------
cdef extern from "fl_extract.h" nogil:
    enum:
        FL_FORMAT_DIR
        FL_FORMAT_OVERLAY
        FL_FORMAT_OVERLAY_USERXATTR
        FL_FORMAT_AUFS
        FL_LOSS_POLICY
        FL_LOSS_EPERM
        FL_LOSS_ENOTSUP
        FL_LOSS_SETID
        FL_LOSS_DEVICE
    struct fl_id_range:
        uint32_t inside
        uint32_t outside
        uint32_t count
    struct fl_id_map:
        const fl_id_range *ranges
        uint32_t count
    struct fl_extract_options:
        int format
        bint ignore_chown
        bint skip_devices
        bint fsync
        int donor
        uint32_t max_pax
        uint64_t max_entries
        uint64_t max_size
        uint64_t max_file_size
        fl_id_map uid_map
        fl_id_map gid_map
    struct fl_extract_lost:
        uint64_t count
        fl_buf example
    struct fl_extract_stats:
        uint64_t entries
        uint64_t payload
        uint64_t whiteouts
        uint64_t skipped_xattrs
        uint64_t shared
        uint64_t copied
        uint64_t donated
        bint root_is_opaque
        bint needs_lower
        fl_extract_lost lost[5]
    struct fl_extract:
        pass
    fl_extract *fl_extract_new(int target, const fl_extract_options *options, fl_error *err)
    void fl_extract_free(fl_extract *x)
    int fl_extract_begin(fl_extract *x, fl_error *err)
    int fl_extract_feed(fl_extract *x, const uint8_t *data, size_t len, unsigned wait_ms, fl_error *err)
    int fl_extract_feed_extent(fl_extract *x, int fd, uint64_t offset, uint64_t len, unsigned wait_ms, fl_error *err)
    int fl_extract_end(fl_extract *x, unsigned wait_ms, fl_error *err)
    int fl_extract_wait(fl_extract *x, unsigned wait_ms, fl_error *err)
    int fl_extract_place_begin(fl_extract *x, const fl_changes *table, const int *roots, uint32_t root_count,
                               const int64_t *clamp, unsigned helpers, fl_error *err)
    int fl_extract_place(fl_extract *x, unsigned wait_ms, fl_error *err)
    bint fl_extract_is_placing(const fl_extract *x)
    void fl_extract_stop(fl_extract *x)
    const fl_extract_stats *fl_extract_read_stats(const fl_extract *x)

# ---- fl_backing.h -----------------------------------------------------------------------------
cdef extern from "fl_backing.h" nogil:
    enum:
        FL_BACKING_LAYERS
    struct fl_backing:
        int *layers
        unsigned count
        int target

# ---- fl_clone.h -------------------------------------------------------------------------------
cdef extern from "fl_clone.h" nogil:
    struct fl_clone:
        pass
    struct fl_clone_stats:
        uint64_t entries
        uint64_t bytes
        uint64_t shared
        uint64_t copied
        uint64_t sockets
        uint64_t lost_owners
        uint64_t lost_xattrs
        uint64_t changed
    enum:
        FL_CLONE_LIVE
    fl_clone *fl_clone_new(int src_fd, int dst_fd, unsigned jobs, unsigned flags, const fl_backing *backing, fl_error *err)
    int fl_clone_step(fl_clone *c, unsigned wait_ms, fl_error *err)
    void fl_clone_read_stats(fl_clone *c, fl_clone_stats *ret_stats)
    void fl_clone_free(fl_clone *c)

# ---- fl_copyup.h ------------------------------------------------------------------------------
cdef extern from "fl_copyup.h" nogil:
    struct fl_copyup:
        pass
    fl_copyup *fl_copyup_new(int lower, int upper, int work, const char *path, const fl_backing *backing, fl_error *err)
    int fl_copyup_step(fl_copyup *c, unsigned wait_ms, fl_error *err)
    void fl_copyup_read_stats(const fl_copyup *c, fl_clone_stats *ret_stats)
    void fl_copyup_free(fl_copyup *c)

# ---- fl_chunk.h -------------------------------------------------------------------------------
cdef extern from "fl_chunk.h" nogil:
    struct fl_chunk:
        uint64_t base
        uint32_t length
    int fl_chunk_init(fl_chunk *c, uint64_t min, uint64_t avg, uint64_t max, int kernel, fl_error *err)
    int fl_chunk_next(fl_chunk *c, const uint8_t *data, size_t n, size_t *pos)

# ---- fl_mount.h -------------------------------------------------------------------------------
cdef extern from "fl_mount.h" nogil:
    int fl_mount_open(const char *type, fl_error *err)
    int fl_mount_set(int context, const char *key, const char *value, int fd, fl_error *err)
    int fl_mount_create(int context, uint32_t attributes, fl_error *err)
    int fl_mount_clone(const char *path, bint recursive, fl_error *err)
    int fl_mount_change(int mount, uint64_t set, uint64_t clear, int userns, bint recursive, fl_error *err)
    int fl_mount_attach(int mount, int target, fl_error *err)
    int fl_mount_detach(const char *path, int flags, fl_error *err)
    int fl_mount_old(const char *source, const char *target, const char *type, unsigned long flags, const char *data,
                     int cwd, fl_error *err)
    enum:
        FL_MOUNT_UNIQUE
        FL_MOUNT_ROOT
    int fl_mount_id(int fd, bint plain, uint64_t *ret_id, fl_error *err)
    int fl_mount_userns(const char *uid_map, const char *gid_map, fl_error *err)

# ---- fl_btrfs.h -------------------------------------------------------------------------------
cdef extern from "fl_btrfs.h" nogil:
    struct fl_btrfs_info:
        uint64_t id
        uint64_t generation
        uint64_t changed
        uint64_t created
        int64_t created_sec
        bint readonly
        uint8_t uuid[16]
        uint8_t parent_uuid[16]
    struct fl_btrfs_inode:
        uint64_t ino
        uint64_t generation
        uint32_t nlink
        uint32_t mode
    struct fl_btrfs_usage:
        uint64_t bytes
        uint64_t inodes
        uint64_t shared
    int fl_btrfs_create(int dir, const char *name, fl_error *err)
    int fl_btrfs_snapshot(int dir, const char *name, int source, bint readonly, fl_error *err)
    int fl_btrfs_destroy(int dir, const char *name, fl_error *err)
    int fl_btrfs_set_readonly(int fd, bint readonly, fl_error *err)
    int fl_btrfs_get_info "fl_btrfs_info"(int fd, fl_btrfs_info *ret, fl_error *err)
    int fl_btrfs_sync(int fd, fl_error *err)
    int fl_btrfs_quota_enable(int fd, fl_error *err)
    int fl_btrfs_qgroup_limit(int fd, uint64_t id, uint64_t exclusive, fl_error *err)
    int fl_btrfs_qgroup_create(int fd, uint64_t id, bint create, fl_error *err)
    int fl_btrfs_qgroup_usage(int fd, uint64_t id, uint64_t *ret_referenced, uint64_t *ret_exclusive, fl_error *err)
    int fl_btrfs_changed(int fd, int parent, uint64_t transid, int64_t sec, fl_buf *ret, fl_error *err)
    int fl_btrfs_names(int fd, uint64_t ino, fl_buf *ret, fl_error *err)
    int fl_btrfs_compare_names(int a, int b, uint64_t ino, fl_buf *ret, fl_error *err)
    int fl_btrfs_nested(int fd, uint64_t id, fl_buf *ret, fl_error *err)
    int fl_btrfs_get_usage "fl_btrfs_usage"(int fd, uint64_t transid, fl_btrfs_usage *ret, fl_error *err)

# ---- fl_usage.h -------------------------------------------------------------------------------
cdef extern from "fl_usage.h" nogil:
    struct fl_usage:
        uint64_t bytes
        uint64_t inodes
        uint64_t shared
    int fl_usage_init(fl_usage *u, int root_fd, fl_error *err)
    void fl_usage_free(fl_usage *u)
    int fl_usage_step(fl_usage *u, fl_error *err)

# ---- fl_sha256.h ------------------------------------------------------------------------------
cdef extern from "fl_sha256.h" nogil:
    struct fl_sha256:
        pass
    int fl_sha256_available()
    void fl_sha256_init(fl_sha256 *s)
    void fl_sha256_update(fl_sha256 *s, const uint8_t *data, size_t n)
    void fl_sha256_update2(fl_sha256 *a, const uint8_t *data_a, size_t n_a, fl_sha256 *b, const uint8_t *data_b, size_t n_b)
    void fl_sha256_digest(const fl_sha256 *s, uint8_t *out)
    void fl_sha256_many(const uint8_t *data, const uint64_t *bounds, size_t n, uint8_t *out)

# ---- fl_crc64.h -------------------------------------------------------------------------------
cdef extern from "fl_crc64.h" nogil:
    uint64_t fl_crc64_update(uint64_t crc, const uint8_t *data, size_t n)
    uint64_t fl_crc64_bitwise(uint64_t crc, const uint8_t *data, size_t n)

# ---- fl_run.h ---------------------------------------------------------------------------------
cdef extern from "linux/filter.h" nogil:
    struct sock_filter:
        pass

cdef extern from "sys/types.h" nogil:
    ctypedef unsigned int gid_t

cdef extern from "fl_run.h" nogil:
    struct fl_run_step:
        int op
        int slot
        uint64_t number
        const char *one
        const char *two
        const char *three

    struct fl_run_limit:
        int resource
        uint64_t soft
        uint64_t hard

    struct fl_run_program:
        const char *const *paths
        bint apart
        char *const *argv
        char *const *envp
        const char *cwd
        uint32_t uid
        uint32_t gid
        const gid_t *groups
        int group_count
        bint keep_caps
        uint64_t caps
        bint no_new_privs
        const sock_filter *filter
        unsigned short filter_len
        unsigned filter_flags
        const fl_run_limit *limits
        size_t limit_count
        int stdio[3]
        int terminal

    struct fl_run:
        const fl_run_step *keeper
        size_t keeper_count
        const fl_run_step *child
        size_t child_count
        uint64_t namespaces
        bint whole_tree
        fl_run_program program
        int *slots
        size_t slot_count
        int life
        int report
        int ready

    int fl_run_start(const fl_run *run, fl_error *err)

# ---- fl_monitor.h -----------------------------------------------------------------------------
cdef extern from "fl_monitor.h" nogil:
    struct fl_monitor:
        int dir
        int lock
        int listener
        int client
        int out
        int err
        int in_ "in"
        int terminal
        int master
        int rows
        int columns
        bint stdin_once
        int news
        int life
        uint64_t log_size
        int log_files
        int oom
        const char *const *cgroups
        const char *const *cleanup
        char *const *environment

    int fl_monitor_start(const fl_run *run, const fl_monitor *monitor, fl_error *err)
