#include "fl_encode.h"

#include <errno.h>
#include <string.h>

#include "fl_name.h"

#define END_OF_ARCHIVE (2 * FL_HEADER_BLOCK)

int fl_encode_init(struct fl_encode *e, const struct fl_changes *table,
                   const int *roots, uint32_t root_count, const int64_t *clamp,
                   struct fl_error *err)
{
    memset(e, 0, sizeof(*e));
    e->file.fd = -1;
    e->table = table;
    if (table->order == NULL && table->count != 0)
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "the change table is not finished");
    if (fl_origin_init(&e->origin, table, roots, root_count, err) < 0)
        return -1;
    e->has_clamp = clamp != NULL;
    e->clamp = clamp != NULL ? *clamp : 0;
    return 0;
}

void fl_encode_free(struct fl_encode *e)
{
    fl_origin_close(&e->file);
    fl_origin_free(&e->origin);
    fl_buf_free(&e->head);
    fl_buf_free(&e->scratch);
    fl_buf_free(&e->path);
}

/* ---- the bytes of a file --------------------------------------------------------------- */

static int bad_row(const struct fl_encode *e, const struct fl_row *r, struct fl_error *err)
{
    return fl_origin_bad_row(e->table, r, err);
}

static int open_content(struct fl_encode *e, const struct fl_row *r, struct fl_error *err)
{
    e->row = r;
    e->left = r->size;
    e->pad = (uint32_t)(-r->size & (FL_HEADER_BLOCK - 1));
    e->data_until = e->hole_until = 0;
    if (fl_origin_open(&e->origin, r, &e->file, err) < 0)
        return -1;
    e->sparse = e->file.own && (uint64_t)e->file.st.st_blocks * 512 < r->size;
    return 0;
}

static int close_content(struct fl_encode *e, struct fl_error *err)
{
    int r = fl_origin_check(&e->origin, e->row, &e->file, err);

    fl_origin_close(&e->file);
    return r;
}

/* Sparse files: which kind of segment begins at pos and how far it goes. */
static int locate_segment(struct fl_encode *e, struct fl_error *err)
{
    off_t at = lseek(e->file.fd, (off_t)e->file.pos, SEEK_DATA);

    if (at < 0 && errno == ENXIO) {
        e->hole_until = e->file.pos + e->left;
        return 0;
    }
    if (at > (off_t)e->file.pos) {
        e->hole_until = (uint64_t)at;
        return 0;
    }
    if (at >= 0)
        at = lseek(e->file.fd, (off_t)e->file.pos, SEEK_HOLE);
    if (at < 0 && errno != EINVAL && errno != EOPNOTSUPP)
        return fl_error_os(err, errno, "lseek", fl_row_path(e->table, e->row),
                           e->row->path_len);
    e->data_until = at > (off_t)e->file.pos ? (uint64_t)at : e->file.pos + e->left;
    return 0;
}

static size_t smaller(size_t a, uint64_t b)
{
    return b < a ? (size_t)b : a;
}

/* Bytes of the file that fit, at least one; cap and left are not 0. */
static ssize_t take_content(struct fl_encode *e, uint8_t *buf, size_t cap,
                            struct fl_error *err)
{
    size_t want = smaller(cap, e->left);
    ssize_t n;

    if (e->sparse) {
        if (e->file.pos >= e->data_until && e->file.pos >= e->hole_until &&
            locate_segment(e, err) < 0)
            return -1;
        if (e->file.pos < e->hole_until) {
            n = (ssize_t)smaller(want, e->hole_until - e->file.pos);
            memset(buf, 0, (size_t)n);
            return n;
        }
        want = smaller(want, e->data_until - e->file.pos);
    }
    do
        n = pread(e->file.fd, buf, want, (off_t)e->file.pos);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return fl_error_os(err, errno, "read", fl_row_path(e->table, e->row),
                           e->row->path_len);
    return n > 0 ? n : fl_origin_changed(e->table, e->row, err);
}

/* ---- one function per entry type -------------------------------------------------------- */

/* Copies the path (and a closing slash) to where the header can point at it. */
static int store_path(struct fl_encode *e, const uint8_t *path, uint32_t len,
                      const char *tail, struct fl_error *err)
{
    e->path.len = 0;
    if (fl_buf_add(&e->path, path, len, NULL, err) < 0)
        return -1;
    return fl_buf_add(&e->path, tail, strlen(tail), NULL, err);
}

static int write_header(struct fl_encode *e, struct fl_header *h, struct fl_error *err)
{
    if (e->has_clamp && h->mtime_sec >= e->clamp) {
        h->mtime_sec = e->clamp;
        h->mtime_nsec = 0;
    }
    e->entries++;
    return fl_header_write(h, &e->head, &e->scratch, err);
}

static void common_header(const struct fl_encode *e, const struct fl_row *r,
                          struct fl_header *h)
{
    memset(h, 0, sizeof(*h));
    h->path = fl_row_path(e->table, r);
    h->path_len = r->path_len;
    h->xattrs = fl_row_xattrs(e->table, r);
    h->xattr_len = r->xattr_len;
    h->mode = r->mode;
    h->uid = r->uid;
    h->gid = r->gid;
    h->mtime_sec = r->mtime_sec;
    h->mtime_nsec = r->mtime_nsec;
}

/* dir/.wh.NAME: nothing but the name means anything, so everything else is 0. */
static int begin_whiteout(struct fl_encode *e, const struct fl_row *r, struct fl_error *err)
{
    const uint8_t *path = fl_row_path(e->table, r);
    const uint8_t *slash = memrchr(path, '/', r->path_len);
    uint32_t dir_len = slash == NULL ? 0 : (uint32_t)(slash + 1 - path);
    struct fl_header h = {.type = '0'};

    if (r->path_len == dir_len)
        return bad_row(e, r, err);
    if (store_path(e, path, dir_len, ".wh.", err) < 0 ||
        fl_buf_add(&e->path, path + dir_len, r->path_len - dir_len, NULL, err) < 0)
        return -1;
    h.path = e->path.data;
    h.path_len = (uint32_t)e->path.len;
    e->entries++;
    return fl_header_write(&h, &e->head, &e->scratch, err);
}

static int begin_hardlink(struct fl_encode *e, const struct fl_row *r, struct fl_error *err)
{
    const struct fl_row *leader;
    struct fl_header h;

    if (r->leader >= e->table->count)
        return bad_row(e, r, err);
    leader = &e->table->rows[r->leader];
    common_header(e, r, &h);
    h.type = '1';
    h.link = fl_row_path(e->table, leader);
    h.link_len = leader->path_len;
    h.xattr_len = 0;
    return write_header(e, &h, err);
}

static int begin_directory(struct fl_encode *e, const struct fl_row *r, struct fl_error *err)
{
    struct fl_header h;

    if (store_path(e, fl_row_path(e->table, r), r->path_len,
                   r->path_len == 0 ? "./" : "/", err) < 0)
        return -1;
    common_header(e, r, &h);
    h.type = '5';
    h.path = e->path.data;
    h.path_len = (uint32_t)e->path.len;
    return write_header(e, &h, err);
}

static int begin_file(struct fl_encode *e, const struct fl_row *r, struct fl_error *err)
{
    struct fl_header h;

    common_header(e, r, &h);
    h.type = '0';
    h.size = r->size;
    if (r->size != 0 && open_content(e, r, err) < 0)
        return -1;
    return write_header(e, &h, err);
}

static int begin_symlink(struct fl_encode *e, const struct fl_row *r, struct fl_error *err)
{
    struct fl_header h;

    common_header(e, r, &h);
    h.type = '2';
    h.link = fl_row_link(e->table, r);
    h.link_len = r->link_len;
    return write_header(e, &h, err);
}

static int begin_special(struct fl_encode *e, const struct fl_row *r, struct fl_error *err)
{
    struct fl_header h;

    common_header(e, r, &h);
    h.type = S_ISCHR(r->mode) ? '3' : S_ISBLK(r->mode) ? '4' : '6';
    if (h.type != '6') {
        h.rdev_major = (uint32_t)(r->size >> 32);
        h.rdev_minor = (uint32_t)r->size;
    }
    return write_header(e, &h, err);
}

static int begin_row(struct fl_encode *e, const struct fl_row *r, struct fl_error *err)
{
    if (fl_name_refuse_markers(fl_row_path(e->table, r), r->path_len, err) < 0)
        return -1;
    if (r->kind == FL_KIND_DELETE)
        return begin_whiteout(e, r, err);
    if (S_ISDIR(r->mode))
        return begin_directory(e, r, err);
    if (r->path_len == 0)
        return bad_row(e, r, err);
    if (r->leader != FL_NO_LEADER)
        return begin_hardlink(e, r, err);
    if (S_ISREG(r->mode))
        return begin_file(e, r, err);
    if (S_ISLNK(r->mode))
        return begin_symlink(e, r, err);
    if (S_ISCHR(r->mode) || S_ISBLK(r->mode) || S_ISFIFO(r->mode))
        return begin_special(e, r, err);
    return bad_row(e, r, err);
}

/* ---- the pull --------------------------------------------------------------------------- */

/* Puts the next header, or the end of the archive, into `head`. Returns 0 when
 * there is nothing more. */
static int begin_next(struct fl_encode *e, struct fl_error *err)
{
    e->head.len = e->head_pos = 0;
    if (e->next < e->table->count) {
        const struct fl_row *r = &e->table->rows[e->table->order[e->next++]];

        return begin_row(e, r, err) < 0 ? -1 : 1;
    }
    if (e->ended)
        return 0;
    e->ended = 1;
    if (fl_buf_reserve(&e->head, END_OF_ARCHIVE, err) < 0)
        return -1;
    memset(e->head.data, 0, END_OF_ARCHIVE);
    e->head.len = END_OF_ARCHIVE;
    return 1;
}

/* Bytes put into buf; 0 at the end. cap is not 0. */
static ssize_t read_some(struct fl_encode *e, uint8_t *buf, size_t cap,
                         struct fl_error *err)
{
    size_t n = smaller(cap, e->head.len - e->head_pos);
    ssize_t got;

    if (n != 0) {
        memcpy(buf, e->head.data + e->head_pos, n);
        e->head_pos += n;
        return (ssize_t)n;
    }
    if (e->file.fd >= 0) {
        got = take_content(e, buf, cap, err);
        if (got < 0)
            return -1;
        e->file.pos += (uint64_t)got;
        e->left -= (uint64_t)got;
        e->payload += (uint64_t)got;
        return e->left == 0 && close_content(e, err) < 0 ? -1 : got;
    }
    n = smaller(cap, e->pad);
    memset(buf, 0, n);
    e->pad -= (uint32_t)n;
    return (ssize_t)n;
}

ssize_t fl_encode_read(struct fl_encode *e, uint8_t *buf, size_t cap,
                       struct fl_error *err)
{
    size_t done = 0;

    while (done < cap) {
        ssize_t n = read_some(e, buf + done, cap - done, err);

        if (n < 0)
            return -1;
        done += (size_t)n;
        if (n == 0) {
            int r = begin_next(e, err);

            if (r < 0)
                return -1;
            if (r == 0)
                break;
        }
    }
    return (ssize_t)done;
}
