#include "fl_tar_private.h"

#define ID_MAX 4294967294u /* 2^32-1 means "leave as it is" to chown */
#define RDEV_MAJOR_MAX 4095
#define RDEV_MINOR_MAX 1048575

/* ---- numbers ---------------------------------------------------------- */

static int field(const struct fl_tar *t, size_t off, size_t width,
                 const char *name, int64_t *ret, struct fl_error *err)
{
    if (fl_number_field(t->block + off, width, ret) < 0)
        return fl_error_format(err, fl_tar_header_at(t), "malformed %s in a header", name);
    return 0;
}

int fl_tar_positive_field(const struct fl_tar *t, size_t off, size_t width,
                          const char *name, int64_t *ret, struct fl_error *err)
{
    if (field(t, off, width, name, ret, err) < 0)
        return -1;
    if (*ret < 0)
        return fl_error_format(err, fl_tar_header_at(t), "negative %s in a header", name);
    return 0;
}

/* ---- names ------------------------------------------------------------ */

static struct fl_slice text_field(const uint8_t *p, size_t width)
{
    return (struct fl_slice){p, (uint32_t)strnlen((const char *)p, width)};
}

/* Only the POSIX magic says that there is a prefix: GNU and V7 headers have
 * other things there, and star's prefix is shorter. */
static struct fl_slice header_name(struct fl_tar *t)
{
    struct fl_slice name = text_field(t->block + USTAR_NAME, USTAR_W_NAME), prefix;
    bool star;

    if (memcmp(t->block + USTAR_MAGIC, "ustar", 6) != 0 || t->block[USTAR_PREFIX] == '\0')
        return name;
    star = memcmp(t->block + USTAR_STAR_TRAILER, "tar", 4) == 0;
    prefix = text_field(t->block + USTAR_PREFIX, star ? USTAR_W_STAR_PREFIX : USTAR_W_PREFIX);
    memcpy(t->name, prefix.data, prefix.len);
    t->name[prefix.len] = '/';
    memcpy(t->name + prefix.len + 1, name.data, name.len);
    return (struct fl_slice){t->name, prefix.len + 1 + name.len};
}

static bool pax_has(const struct fl_tar *t, uint32_t bit)
{
    return (t->pax.set & bit) != 0;
}

static void set_path(struct fl_tar *t)
{
    struct fl_tar_entry *e = &t->entry;
    struct fl_slice name;

    if (e->sparse && pax_has(t, FL_PAX_SPARSE_NAME))
        name = t->pax.sparse_name;
    else if (pax_has(t, FL_PAX_PATH))
        name = t->pax.path;
    else if ((t->pending & PENDING_NAME) && t->long_name.len != 0)
        name = (struct fl_slice){t->long_name.data, (uint32_t)t->long_name.len};
    else
        name = header_name(t);
    e->path = name.data;
    e->path_len = name.len;
}

static int set_link(struct fl_tar *t, struct fl_error *err)
{
    struct fl_tar_entry *e = &t->entry;
    struct fl_slice link;

    if (pax_has(t, FL_PAX_LINKPATH))
        link = t->pax.linkpath;
    else if ((t->pending & PENDING_LINK) && t->long_link.len != 0)
        link = (struct fl_slice){t->long_link.data, (uint32_t)t->long_link.len};
    else
        link = text_field(t->block + USTAR_LINKNAME, USTAR_W_NAME);
    if (link.len == 0)
        return fl_error_format(err, fl_tar_header_at(t), "link without a target");
    e->link = link.data;
    e->link_len = link.len;
    return 0;
}

/* ---- attributes ------------------------------------------------------- */

static int set_id(struct fl_tar *t, size_t off, const char *name, uint32_t bit,
                  uint64_t pax_value, uint32_t *ret, struct fl_error *err)
{
    int64_t v;

    if (field(t, off, USTAR_W_ID, name, &v, err) < 0)
        return -1;
    if (pax_has(t, bit))
        v = (int64_t)pax_value;
    if (v < 0 || v > ID_MAX)
        return fl_error_format(err, fl_tar_header_at(t), "%s out of range", name);
    *ret = (uint32_t)v;
    return 0;
}

static int set_attributes(struct fl_tar *t, struct fl_error *err)
{
    struct fl_tar_entry *e = &t->entry;
    const struct fl_pax *p = &t->pax;
    int64_t mode;

    if (fl_tar_positive_field(t, USTAR_MODE, USTAR_W_ID, "mode", &mode, err) < 0 ||
        set_id(t, USTAR_UID, "uid", FL_PAX_UID, p->uid, &e->uid, err) < 0 ||
        set_id(t, USTAR_GID, "gid", FL_PAX_GID, p->gid, &e->gid, err) < 0 ||
        field(t, USTAR_MTIME, USTAR_W_SIZE, "mtime", &e->mtime_sec, err) < 0)
        return -1;
    e->mode = (uint32_t)mode & 07777;
    if (pax_has(t, FL_PAX_MTIME)) {
        e->mtime_sec = p->mtime_sec;
        e->mtime_nsec = p->mtime_nsec;
    }
    e->xattrs = p->xattrs.data;
    e->xattr_len = (uint32_t)p->xattrs.len;
    return 0;
}

static int set_rdev(struct fl_tar *t, struct fl_error *err)
{
    int64_t major, minor;

    if (fl_tar_positive_field(t, USTAR_MAJOR, USTAR_W_ID, "device number", &major, err) < 0 ||
        fl_tar_positive_field(t, USTAR_MINOR, USTAR_W_ID, "device number", &minor, err) < 0)
        return -1;
    if (major > RDEV_MAJOR_MAX || minor > RDEV_MINOR_MAX)
        return fl_error_format(err, fl_tar_header_at(t), "device number out of range");
    t->entry.rdev_major = (uint32_t)major;
    t->entry.rdev_minor = (uint32_t)minor;
    return 0;
}

/* ---- one function per kind of entry ----------------------------------- */

static int begin_bodyless(struct fl_tar *t)
{
    t->left = 0;
    t->pad = 0;
    t->state = ST_ENTRY;
    return AGAIN;
}

static int begin_link(struct fl_tar *t, struct fl_error *err)
{
    return set_link(t, err) < 0 ? -1 : begin_bodyless(t);
}

static int begin_device(struct fl_tar *t, struct fl_error *err)
{
    return set_rdev(t, err) < 0 ? -1 : begin_bodyless(t);
}

/* Before ustar a directory was a file whose name ends in a slash. Its size
 * means nothing with type NUL; with '0' readers disagree about a body. */
static int begin_slash_dir(struct fl_tar *t, uint8_t type, struct fl_error *err)
{
    if (type != '\0' && t->left != 0)
        return fl_error_format(err, fl_tar_header_at(t), "regular file with a body and the name of a directory");
    t->entry.type = FL_TAR_DIR;
    t->entry.size = 0;
    return begin_bodyless(t);
}

static int begin_file(struct fl_tar *t, uint8_t type, struct fl_error *err)
{
    struct fl_tar_entry *e = &t->entry;

    e->type = FL_TAR_FILE;
    e->size = t->left;
    if (e->path_len != 0 && e->path[e->path_len - 1] == '/')
        return begin_slash_dir(t, type, err);
    t->state = ST_ENTRY;
    return AGAIN;
}

/* The map is complete: from here on the entry is a file with segments. */
int fl_tar_begin_segments(struct fl_tar *t, struct fl_error *err)
{
    if (fl_sparse_check(&t->pax.sparse, t->entry.size, t->left, t->pos, err) < 0)
        return -1;
    t->segment = 0;
    t->segment_done = 0;
    t->state = ST_ENTRY;
    return AGAIN;
}

static int begin_old_sparse(struct fl_tar *t, struct fl_error *err)
{
    int64_t real;

    if (memcmp(t->block + USTAR_MAGIC, "ustar  ", 8) != 0)
        return fl_error_format(err, fl_tar_header_at(t), "sparse entry without the GNU magic");
    if (t->pending & PENDING_PAX)
        return fl_error_format(err, fl_tar_header_at(t), "old sparse entry with an extended header");
    if (fl_tar_positive_field(t, GNU_REALSIZE, USTAR_W_SIZE, "real size", &real, err) < 0 ||
        fl_sparse_add_fields(&t->pax.sparse, t->block + GNU_MAP_FIELDS,
                             GNU_HEADER_SEGMENTS, fl_tar_header_at(t), err) < 0)
        return -1;
    t->entry.size = (uint64_t)real;
    t->map_bytes = 0;
    if (t->block[GNU_MAP_MORE] == 0)
        return fl_tar_begin_segments(t, err);
    t->state = ST_GNU_MAP;
    return AGAIN;
}

static bool has_pax_map(const struct fl_tar *t)
{
    return pax_has(t, FL_PAX_SPARSE_MAP | FL_PAX_SPARSE_PAIRS | FL_PAX_SPARSE_BLOCKS);
}

static int begin_pax_sparse(struct fl_tar *t, bool in_body, struct fl_error *err)
{
    const struct fl_pax *p = &t->pax;

    if (pax_has(t, FL_PAX_SPARSE_SIZE))
        t->entry.size = p->sparse_size;
    else if (pax_has(t, FL_PAX_SPARSE_REALSIZE))
        t->entry.size = p->sparse_realsize;
    else
        return fl_error_format(err, fl_tar_header_at(t), "sparse entry without its size");
    if (in_body) {
        if (has_pax_map(t))
            return fl_error_format(err, fl_tar_header_at(t), "two sparse maps");
        t->map_bytes = 0;
        t->state = ST_PAX_MAP;
        return AGAIN;
    }
    if (pax_has(t, FL_PAX_SPARSE_BLOCKS) &&
        fl_sparse_count(&p->sparse) != p->sparse_blocks)
        return fl_error_format(err, fl_tar_header_at(t), "sparse map is not as long as it says");
    return fl_tar_begin_segments(t, err);
}

/* Which GNU.sparse version the pending records are: 0 none, 1 map in the
 * records, 2 map in the body, -1 unknown. */
static int pax_sparse_kind(const struct fl_tar *t)
{
    const struct fl_pax *p = &t->pax;

    if (!pax_has(t, FL_PAX_SPARSE_MAJOR | FL_PAX_SPARSE_MINOR))
        return has_pax_map(t) ? 1 : 0;
    if (!pax_has(t, FL_PAX_SPARSE_MAJOR) || !pax_has(t, FL_PAX_SPARSE_MINOR))
        return -1;
    if (p->sparse_major == 0 && p->sparse_minor <= 1)
        return 1;
    return p->sparse_major == 1 && p->sparse_minor == 0 ? 2 : -1;
}

static int begin_regular(struct fl_tar *t, uint8_t type, struct fl_error *err)
{
    int kind = pax_sparse_kind(t);

    if (kind < 0)
        return fl_error_format(err, fl_tar_header_at(t), "sparse entry of an unknown version");
    t->entry.type = FL_TAR_FILE;
    t->entry.sparse = kind > 0;
    set_path(t);
    if (kind > 0)
        return begin_pax_sparse(t, kind == 2, err);
    return begin_file(t, type, err);
}

static int begin_typed(struct fl_tar *t, uint8_t type, struct fl_error *err)
{
    struct fl_tar_entry *e = &t->entry;

    switch (type) {
    case '\0':
    case '0':
    case '7':
        return begin_regular(t, type, err);
    case 'S':
        e->type = FL_TAR_FILE;
        e->sparse = true;
        set_path(t);
        return begin_old_sparse(t, err);
    }
    e->type = type;
    set_path(t);
    switch (type) {
    case FL_TAR_HARDLINK:
    case FL_TAR_SYMLINK:
        return begin_link(t, err);
    case FL_TAR_CHAR:
    case FL_TAR_BLOCKDEV:
        return begin_device(t, err);
    case FL_TAR_DIR:
    case FL_TAR_FIFO:
        return begin_bodyless(t);
    default:
        return fl_error_format(err, fl_tar_header_at(t), "entry of unknown type 0x%02x", type);
    }
}

static int refuse_entry(struct fl_tar *t, struct fl_error *err)
{
    if (t->entry.path == NULL)
        set_path(t);
    fl_error_path(err, t->entry.path, t->entry.path_len);
    return -1;
}

int fl_tar_begin_entry(struct fl_tar *t, uint8_t type, struct fl_error *err)
{
    int64_t size;
    int r;

    memset(&t->entry, 0, sizeof(t->entry));
    t->entry.offset = fl_tar_header_at(t);
    if (set_attributes(t, err) < 0 ||
        fl_tar_positive_field(t, USTAR_SIZE, USTAR_W_SIZE, "size", &size, err) < 0)
        return refuse_entry(t, err);
    t->left = pax_has(t, FL_PAX_SIZE) ? t->pax.size : (uint64_t)size;
    t->pad = fl_tar_padding(t->left);
    r = begin_typed(t, type, err);
    return r < 0 ? refuse_entry(t, err) : r;
}
