#include "fl_tar.h"

#include "fl_number.h"

/* Offsets and widths of the header's fields (ustar, POSIX 1003.1; GNU tar(5)). */
#define NAME 0
#define MODE 100
#define UID 108
#define GID 116
#define SIZE 124
#define MTIME 136
#define CHECKSUM 148
#define TYPE 156
#define LINKNAME 157
#define MAGIC 257
#define MAJOR 329
#define MINOR 337
#define PREFIX 345
#define STAR_TRAILER 508
#define GNU_MAP_FIELDS 386
#define GNU_MAP_MORE 482
#define GNU_REALSIZE 483
#define GNU_EXTENSION_MORE 504

#define W_ID 8u /* mode, uid, gid, checksum, device numbers */
#define W_SIZE 12u
#define W_NAME 100u
#define W_PREFIX 155u
#define W_STAR_PREFIX 131u

#define GNU_HEADER_SEGMENTS 4
#define GNU_EXTENSION_SEGMENTS 21

#define ID_MAX 4294967294u /* 2^32-1 means "leave as it is" to chown */
#define RDEV_MAJOR_MAX 4095
#define RDEV_MINOR_MAX 1048575

/* pending */
#define PENDING_PAX 1u
#define PENDING_NAME 2u
#define PENDING_LINK 4u

/* What a step did: an event, no more input, an error, or only a change of state. */
#define EVENT 1
#define STARVED 0
#define AGAIN 2

enum state {
    ST_HEADER,
    ST_EXTENDED,  /* body of an extended header                             */
    ST_GNU_MAP,   /* extension blocks of an old GNU sparse map              */
    ST_PAX_MAP,   /* the map at the start of a GNU.sparse 1.0 body          */
    ST_ENTRY,     /* the entry is complete                                  */
    ST_DATA,
    ST_NEXT,      /* the caller is done with the entry                      */
    ST_PADDING,
    ST_ENDED,
    ST_DEAD,
};

void fl_tar_init(struct fl_tar *t, const struct fl_tar_limits *limits)
{
    memset(t, 0, sizeof(*t));
    if (limits != NULL)
        t->limits = *limits;
    if (t->limits.max_pax == 0)
        t->limits.max_pax = FL_TAR_MAX_PAX;
    t->state = ST_HEADER;
}

void fl_tar_free(struct fl_tar *t)
{
    fl_pax_free(&t->pax);
    fl_buf_free(&t->pax_body);
    fl_buf_free(&t->global_body);
    fl_buf_free(&t->long_name);
    fl_buf_free(&t->long_link);
}

/* ---- input ------------------------------------------------------------ */

static void advance(struct fl_tar *t, const uint8_t **buf, size_t *len, size_t n)
{
    *buf += n;
    *len -= n;
    t->pos += (int64_t)n;
}

/* True when `block` is complete; t->have is 0 again then. */
static bool collect_block(struct fl_tar *t, uint8_t *block, const uint8_t **buf,
                          size_t *len)
{
    size_t n = FL_TAR_BLOCK - t->have;

    if (n > *len)
        n = *len;
    if (n != 0)
        memcpy(block + t->have, *buf, n);
    advance(t, buf, len, n);
    t->have += (uint32_t)n;
    if (t->have < FL_TAR_BLOCK)
        return false;
    t->have = 0;
    return true;
}

static uint32_t padding(uint64_t size)
{
    return (uint32_t)(-size & (FL_TAR_BLOCK - 1));
}

/* Where the header in t->block began: it has just been taken. */
static int64_t header_at(const struct fl_tar *t)
{
    return t->pos - FL_TAR_BLOCK;
}

/* ---- the header block ------------------------------------------------- */

static bool is_zero(const uint8_t *block)
{
    return block[0] == 0 && memcmp(block, block + 1, FL_TAR_BLOCK - 1) == 0;
}

/* Four 16-bit lanes hold 128 bytes each: 128 * 255 < 2^16. */
static uint32_t sum_unsigned(const uint8_t *block)
{
    const uint64_t even = 0x00ff00ff00ff00ffu;
    uint64_t lanes = 0, word;

    for (size_t i = 0; i < FL_TAR_BLOCK; i += sizeof(word)) {
        memcpy(&word, block + i, sizeof(word));
        lanes += (word & even) + (word >> 8 & even);
    }
    return (uint32_t)((lanes & 0xffff) + (lanes >> 16 & 0xffff) +
                      (lanes >> 32 & 0xffff) + (lanes >> 48));
}

/* Old writers summed signed chars. */
static uint32_t count_high(const uint8_t *p, size_t n)
{
    uint32_t high = 0;

    for (size_t i = 0; i < n; i++)
        high += p[i] >> 7;
    return high;
}

static bool checksum_fits(const uint8_t *block)
{
    const uint8_t *field = block + CHECKSUM;
    int64_t want, sum = sum_unsigned(block) + W_ID * ' ';

    if (fl_number_octal(field, W_ID, &want) < 0)
        return false;
    for (size_t i = 0; i < W_ID; i++)
        sum -= field[i];
    if (sum == want)
        return true;
    sum -= 256 * (int64_t)(count_high(block, FL_TAR_BLOCK) - count_high(field, W_ID));
    return sum == want;
}

static int field(const struct fl_tar *t, size_t off, size_t width,
                 const char *name, int64_t *ret, struct fl_error *err)
{
    if (fl_number_field(t->block + off, width, ret) < 0)
        return fl_error_format(err, header_at(t), "malformed %s in a header", name);
    return 0;
}

static int positive_field(const struct fl_tar *t, size_t off, size_t width,
                          const char *name, int64_t *ret, struct fl_error *err)
{
    if (field(t, off, width, name, ret, err) < 0)
        return -1;
    if (*ret < 0)
        return fl_error_format(err, header_at(t), "negative %s in a header", name);
    return 0;
}

/* ---- extended headers ------------------------------------------------- */

static struct fl_buf *extended_buf(struct fl_tar *t)
{
    switch (t->extended) {
    case 'x':
        return &t->pax_body;
    case 'L':
        return &t->long_name;
    case 'K':
        return &t->long_link;
    default:
        return &t->global_body;
    }
}

static uint32_t pending_bit(uint8_t type)
{
    return type == 'x' ? PENDING_PAX : type == 'L' ? PENDING_NAME
         : type == 'K' ? PENDING_LINK : 0;
}

static int begin_extended(struct fl_tar *t, uint8_t type, struct fl_error *err)
{
    int64_t size;

    if (positive_field(t, SIZE, W_SIZE, "size", &size, err) < 0)
        return -1;
    if (t->pending & pending_bit(type))
        return fl_error_format(err, header_at(t), "two extended headers '%c' for one entry", type);
    if (size > t->limits.max_pax) {
        fl_error_set(err, FL_ERR_LIMIT, NULL, 0,
                     "extended header of %lld bytes; the limit is %u",
                     (long long)size, t->limits.max_pax);
        err->offset = header_at(t);
        return -1;
    }
    t->extended = type;
    t->pending |= pending_bit(type);
    t->left = (uint64_t)size;
    t->pad = padding(t->left);
    extended_buf(t)->len = 0;
    t->state = ST_EXTENDED;
    return AGAIN;
}

/* A long name ends at its first NUL, if it has one. */
static void cut_at_nul(struct fl_buf *b)
{
    if (b->len != 0)
        b->len = strnlen((const char *)b->data, b->len);
}

static int finish_extended(struct fl_tar *t, struct fl_error *err)
{
    struct fl_buf *b = extended_buf(t);
    int64_t at = t->pos - (int64_t)b->len;

    t->state = ST_PADDING;
    if (t->extended == 'x')
        return fl_pax_parse(&t->pax, b->data, b->len, at, err);
    if (t->extended == 'g')
        return fl_pax_check(b->data, b->len, at, err);
    cut_at_nul(b);
    return 0;
}

static int step_extended(struct fl_tar *t, const uint8_t **buf, size_t *len,
                         struct fl_error *err)
{
    size_t n = *len < t->left ? *len : (size_t)t->left;

    if (fl_buf_add(extended_buf(t), *buf, n, NULL, err) < 0)
        return -1;
    advance(t, buf, len, n);
    t->left -= n;
    if (t->left != 0)
        return STARVED;
    return finish_extended(t, err) < 0 ? -1 : AGAIN;
}

static void forget_pending(struct fl_tar *t)
{
    if (t->pending & PENDING_PAX)
        fl_pax_reset(&t->pax);
    t->pending = 0;
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
    struct fl_slice name = text_field(t->block + NAME, W_NAME), prefix;
    bool star;

    if (memcmp(t->block + MAGIC, "ustar", 6) != 0 || t->block[PREFIX] == '\0')
        return name;
    star = memcmp(t->block + STAR_TRAILER, "tar", 4) == 0;
    prefix = text_field(t->block + PREFIX, star ? W_STAR_PREFIX : W_PREFIX);
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
        link = text_field(t->block + LINKNAME, W_NAME);
    if (link.len == 0)
        return fl_error_format(err, header_at(t), "link without a target");
    e->link = link.data;
    e->link_len = link.len;
    return 0;
}

/* ---- attributes ------------------------------------------------------- */

static int set_id(struct fl_tar *t, size_t off, const char *name, uint32_t bit,
                  uint64_t pax_value, uint32_t *ret, struct fl_error *err)
{
    int64_t v;

    if (field(t, off, W_ID, name, &v, err) < 0)
        return -1;
    if (pax_has(t, bit))
        v = (int64_t)pax_value;
    if (v < 0 || v > ID_MAX)
        return fl_error_format(err, header_at(t), "%s out of range", name);
    *ret = (uint32_t)v;
    return 0;
}

static int set_attributes(struct fl_tar *t, struct fl_error *err)
{
    struct fl_tar_entry *e = &t->entry;
    const struct fl_pax *p = &t->pax;
    int64_t mode;

    if (positive_field(t, MODE, W_ID, "mode", &mode, err) < 0 ||
        set_id(t, UID, "uid", FL_PAX_UID, p->uid, &e->uid, err) < 0 ||
        set_id(t, GID, "gid", FL_PAX_GID, p->gid, &e->gid, err) < 0 ||
        field(t, MTIME, W_SIZE, "mtime", &e->mtime_sec, err) < 0)
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

    if (positive_field(t, MAJOR, W_ID, "device number", &major, err) < 0 ||
        positive_field(t, MINOR, W_ID, "device number", &minor, err) < 0)
        return -1;
    if (major > RDEV_MAJOR_MAX || minor > RDEV_MINOR_MAX)
        return fl_error_format(err, header_at(t), "device number out of range");
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
        return fl_error_format(err, header_at(t), "regular file with a body and the name of a directory");
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
static int begin_segments(struct fl_tar *t, struct fl_error *err)
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

    if (memcmp(t->block + MAGIC, "ustar  ", 8) != 0)
        return fl_error_format(err, header_at(t), "sparse entry without the GNU magic");
    if (t->pending & PENDING_PAX)
        return fl_error_format(err, header_at(t), "old sparse entry with an extended header");
    if (positive_field(t, GNU_REALSIZE, W_SIZE, "real size", &real, err) < 0 ||
        fl_sparse_add_fields(&t->pax.sparse, t->block + GNU_MAP_FIELDS,
                             GNU_HEADER_SEGMENTS, header_at(t), err) < 0)
        return -1;
    t->entry.size = (uint64_t)real;
    t->map_bytes = 0;
    if (t->block[GNU_MAP_MORE] == 0)
        return begin_segments(t, err);
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
        return fl_error_format(err, header_at(t), "sparse entry without its size");
    if (in_body) {
        if (has_pax_map(t))
            return fl_error_format(err, header_at(t), "two sparse maps");
        t->map_bytes = 0;
        t->state = ST_PAX_MAP;
        return AGAIN;
    }
    if (pax_has(t, FL_PAX_SPARSE_BLOCKS) &&
        fl_sparse_count(&p->sparse) != p->sparse_blocks)
        return fl_error_format(err, header_at(t), "sparse map is not as long as it says");
    return begin_segments(t, err);
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
        return fl_error_format(err, header_at(t), "sparse entry of an unknown version");
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
        return fl_error_format(err, header_at(t), "entry of unknown type 0x%02x", type);
    }
}

static int refuse_entry(struct fl_tar *t, struct fl_error *err)
{
    if (t->entry.path == NULL)
        set_path(t);
    fl_error_path(err, t->entry.path, t->entry.path_len);
    return -1;
}

static int begin_entry(struct fl_tar *t, uint8_t type, struct fl_error *err)
{
    int64_t size;
    int r;

    memset(&t->entry, 0, sizeof(t->entry));
    t->entry.offset = header_at(t);
    if (set_attributes(t, err) < 0 ||
        positive_field(t, SIZE, W_SIZE, "size", &size, err) < 0)
        return refuse_entry(t, err);
    t->left = pax_has(t, FL_PAX_SIZE) ? t->pax.size : (uint64_t)size;
    t->pad = padding(t->left);
    r = begin_typed(t, type, err);
    return r < 0 ? refuse_entry(t, err) : r;
}

/* ---- steps ------------------------------------------------------------ */

static int end_archive(struct fl_tar *t, struct fl_tar_event *ev,
                       struct fl_error *err)
{
    if (t->pending != 0)
        return fl_error_format(err, header_at(t), "extended header without an entry");
    t->state = ST_ENDED;
    ev->kind = FL_TAR_END;
    ev->entry = NULL;
    return EVENT;
}

/* One zero block ends the archive: readers that want two stop there as well,
 * or disagree about what follows. */
static int step_header(struct fl_tar *t, const uint8_t **buf, size_t *len,
                       struct fl_tar_event *ev, struct fl_error *err)
{
    uint8_t type;

    if (!collect_block(t, t->block, buf, len))
        return STARVED;
    if (is_zero(t->block))
        return end_archive(t, ev, err);
    if (!checksum_fits(t->block))
        return fl_error_format(err, header_at(t), "header checksum does not fit");
    type = t->block[TYPE];
    if (type == 'x' || type == 'g' || type == 'L' || type == 'K')
        return begin_extended(t, type, err);
    return begin_entry(t, type, err);
}

static int count_map_block(struct fl_tar *t, struct fl_error *err)
{
    t->map_bytes += FL_TAR_BLOCK;
    if (t->map_bytes <= t->limits.max_pax)
        return 0;
    return fl_error_set(err, FL_ERR_LIMIT, t->entry.path, t->entry.path_len,
                        "sparse map of more than %u bytes", t->limits.max_pax);
}

static int step_gnu_map(struct fl_tar *t, const uint8_t **buf, size_t *len,
                        struct fl_error *err)
{
    if (!collect_block(t, t->extra, buf, len))
        return STARVED;
    if (count_map_block(t, err) < 0 ||
        fl_sparse_add_fields(&t->pax.sparse, t->extra, GNU_EXTENSION_SEGMENTS,
                             header_at(t), err) < 0)
        return -1;
    return t->extra[GNU_EXTENSION_MORE] != 0 ? AGAIN : begin_segments(t, err);
}

static int step_pax_map(struct fl_tar *t, const uint8_t **buf, size_t *len,
                        struct fl_error *err)
{
    int r;

    if (t->have == 0 && t->left < FL_TAR_BLOCK)
        return fl_error_format(err, t->pos, "sparse map is cut");
    if (!collect_block(t, t->extra, buf, len))
        return STARVED;
    t->left -= FL_TAR_BLOCK;
    if (count_map_block(t, err) < 0)
        return -1;
    r = fl_sparse_add_text(&t->pax.sparse, t->extra, FL_TAR_BLOCK, header_at(t), err);
    if (r <= 0)
        return r < 0 ? -1 : AGAIN;
    return begin_segments(t, err);
}

static int step_entry(struct fl_tar *t, struct fl_tar_event *ev)
{
    t->entry.data_offset = t->pos;
    t->state = t->entry.type == FL_TAR_FILE ? ST_DATA : ST_NEXT;
    ev->kind = FL_TAR_ENTRY;
    ev->entry = &t->entry;
    return EVENT;
}

/* The place of the next stored byte, and how many belong there in one run. */
static uint64_t next_run(struct fl_tar *t, uint64_t *ret_pos)
{
    const struct fl_segment *seg;

    if (!t->entry.sparse) {
        *ret_pos = t->entry.size - t->left;
        return t->left;
    }
    seg = fl_sparse_at(&t->pax.sparse, t->segment);
    while (t->segment_done == seg->len) { /* the segments add up to t->left > 0 */
        seg = fl_sparse_at(&t->pax.sparse, ++t->segment);
        t->segment_done = 0;
    }
    *ret_pos = seg->pos + t->segment_done;
    return seg->len - t->segment_done;
}

static int step_data(struct fl_tar *t, const uint8_t **buf, size_t *len,
                     struct fl_tar_event *ev)
{
    uint64_t run;

    ev->entry = &t->entry;
    if (t->left == 0) {
        ev->kind = FL_TAR_FILE_END;
        t->state = ST_NEXT;
        return EVENT;
    }
    if (*len == 0)
        return STARVED;
    run = next_run(t, &ev->data_pos);
    ev->kind = FL_TAR_DATA;
    ev->data = *buf;
    ev->data_len = run < *len ? (size_t)run : *len;
    t->left -= ev->data_len;
    t->segment_done += ev->data_len;
    advance(t, buf, len, ev->data_len);
    return EVENT;
}

static int step_next(struct fl_tar *t)
{
    forget_pending(t);
    if (t->entry.sparse)
        fl_sparse_reset(&t->pax.sparse);
    t->state = ST_PADDING;
    return AGAIN;
}

static int step_padding(struct fl_tar *t, const uint8_t **buf, size_t *len)
{
    size_t n = *len < t->pad ? *len : t->pad;

    advance(t, buf, len, n);
    t->pad -= (uint32_t)n;
    if (t->pad != 0)
        return STARVED;
    t->state = ST_HEADER;
    return AGAIN;
}

static int step(struct fl_tar *t, const uint8_t **buf, size_t *len,
                struct fl_tar_event *ev, struct fl_error *err)
{
    switch ((enum state)t->state) {
    case ST_HEADER:
        return step_header(t, buf, len, ev, err);
    case ST_EXTENDED:
        return step_extended(t, buf, len, err);
    case ST_GNU_MAP:
        return step_gnu_map(t, buf, len, err);
    case ST_PAX_MAP:
        return step_pax_map(t, buf, len, err);
    case ST_ENTRY:
        return step_entry(t, ev);
    case ST_DATA:
        return step_data(t, buf, len, ev);
    case ST_NEXT:
        return step_next(t);
    case ST_PADDING:
        return step_padding(t, buf, len);
    case ST_ENDED:
        advance(t, buf, len, *len);
        return STARVED;
    case ST_DEAD:
        break;
    }
    return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "tar reader used after an error");
}

int fl_tar_next(struct fl_tar *t, const uint8_t **buf, size_t *len,
                struct fl_tar_event *ev, struct fl_error *err)
{
    int r;

    do {
        r = step(t, buf, len, ev, err);
    } while (r == AGAIN);
    if (r < 0)
        t->state = ST_DEAD;
    return r;
}

int fl_tar_finish(const struct fl_tar *t, struct fl_error *err)
{
    if (t->state == ST_ENDED)
        return 0;
    if (t->pending != 0)
        return fl_error_format(err, t->pos, "archive ends after an extended header");
    if (t->state == ST_PADDING || (t->state == ST_HEADER && t->have == 0))
        return 0;
    if (t->state == ST_HEADER)
        return fl_error_format(err, t->pos, "archive is cut inside a header");
    fl_error_format(err, t->pos, "archive is cut inside an entry");
    if (t->state != ST_EXTENDED)
        fl_error_path(err, t->entry.path, t->entry.path_len);
    return -1;
}
