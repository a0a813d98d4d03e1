#include "fl_encode.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define END_OF_ARCHIVE (2 * FL_HEADER_BLOCK)

static const char busy[] =
    "changed while the layer was made; try again when the tree is quiet";

int fl_encode_init(struct fl_encode *e, const struct fl_changes *table,
                   const int *roots, uint32_t root_count, const int64_t *clamp,
                   struct fl_error *err)
{
    memset(e, 0, sizeof(*e));
    e->fd = -1;
    e->table = table;
    if (table->order == NULL && table->count != 0)
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "the change table is not finished");
    e->roots = calloc(root_count ? root_count : 1, sizeof(*e->roots));
    if (e->roots == NULL)
        return fl_error_memory(err);
    for (uint32_t i = 0; i < root_count; i++)
        fl_open_init(&e->roots[i], roots[i]);
    e->root_count = root_count;
    e->has_clamp = clamp != NULL;
    e->clamp = clamp != NULL ? *clamp : 0;
    return 0;
}

static void drop_file(struct fl_encode *e)
{
    if (e->fd >= 0 && e->own_fd)
        close(e->fd);
    e->fd = -1;
}

void fl_encode_free(struct fl_encode *e)
{
    drop_file(e);
    for (uint32_t i = 0; i < e->root_count; i++)
        fl_open_free(&e->roots[i]);
    free(e->roots);
    e->roots = NULL;
    e->root_count = 0;
    fl_buf_free(&e->head);
    fl_buf_free(&e->scratch);
    fl_buf_free(&e->path);
}

/* ---- where the bytes of a file come from ------------------------------------------------ */

static int changed(const struct fl_encode *e, const struct fl_row *r, struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_CHANGED, fl_row_path(e->table, r), r->path_len,
                        "%s", busy);
}

static int bad_row(const struct fl_encode *e, const struct fl_row *r, struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_USAGE, fl_row_path(e->table, r), r->path_len,
                        "the change table has a row that cannot be encoded");
}

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/* Is it the file that was listed at this path? A row without a ctime does not know its own. */
static bool is_listed(const struct fl_encode *e, const struct fl_row *r, const struct stat *st)
{
    const uint8_t *aux = fl_row_link(e->table, r);
    uint64_t ctime = fl_aux_nanoseconds(st->st_ctim.tv_sec, st->st_ctim.tv_nsec);

    return st->st_mtim.tv_sec == r->mtime_sec && st->st_mtim.tv_nsec == (int64_t)r->mtime_nsec &&
           (r->ino == 0 || st->st_ino == r->ino) &&
           (!(r->flags & FL_ROW_AUX) || memcmp(aux + 1, &ctime, sizeof(ctime)) == 0);
}

/* Compares the opened file with its row, and remembers what it was. */
static int check_opened(struct fl_encode *e, const struct fl_row *r, bool own_stat,
                        struct fl_error *err)
{
    struct stat st;

    if (fstat(e->fd, &st) < 0)
        return fl_error_os(err, errno, "fstat", fl_row_path(e->table, r), r->path_len);
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != r->size)
        return changed(e, r, err);
    if (own_stat && !is_listed(e, r, &st))
        return changed(e, r, err);
    e->before_mtime = st.st_mtim;
    e->before_ctime = st.st_ctim;
    e->sparse = (uint64_t)st.st_blocks * 512 < r->size;
    e->data_until = e->hole_until = 0;
    return 0;
}

static int open_path(struct fl_encode *e, const struct fl_row *r, uint32_t root,
                     const uint8_t *path, uint32_t len, bool own_stat,
                     struct fl_error *err)
{
    if (root >= e->root_count)
        return bad_row(e, r, err);
    if (fl_open_file(&e->roots[root], path, len, &e->fd, err) < 0)
        return -1;
    e->own_fd = e->verify = 1;
    e->pos = 0;
    return check_opened(e, r, own_stat, err);
}

/* The bytes are a range of the file that is the root itself (a tar operand). */
static int open_range(struct fl_encode *e, const struct fl_row *r,
                      const uint8_t *aux, struct fl_error *err)
{
    if (r->link_len != 2 + sizeof(uint64_t) || aux[1] >= e->root_count)
        return bad_row(e, r, err);
    memcpy(&e->pos, aux + 2, sizeof(uint64_t));
    e->fd = e->roots[aux[1]].root;
    e->own_fd = e->verify = e->sparse = 0;
    return 0;
}

static int open_content(struct fl_encode *e, const struct fl_row *r, struct fl_error *err)
{
    const uint8_t *aux = fl_row_link(e->table, r);
    uint16_t root;

    e->row = r;
    e->left = r->size;
    e->pad = (uint32_t)(-r->size & (FL_HEADER_BLOCK - 1));
    if (!(r->flags & FL_ROW_AUX))
        return open_path(e, r, 0, fl_row_path(e->table, r), r->path_len, true, err);
    if (r->link_len == FL_AUX_CTIME_LEN && aux[0] == 'C')
        return open_path(e, r, 0, fl_row_path(e->table, r), r->path_len, true, err);
    if (r->link_len > FL_AUX_PATH_HEAD && aux[0] == 'P') {
        memcpy(&root, aux + 1, sizeof(root));
        return open_path(e, r, root, aux + FL_AUX_PATH_HEAD, r->link_len - FL_AUX_PATH_HEAD,
                         false, err);
    }
    if (r->link_len > 2 && aux[0] == 'O')
        return open_range(e, r, aux, err);
    return bad_row(e, r, err);
}

static int close_content(struct fl_encode *e, struct fl_error *err)
{
    struct stat st;

    if (e->verify) {
        if (fstat(e->fd, &st) < 0)
            return fl_error_os(err, errno, "fstat", fl_row_path(e->table, e->row),
                               e->row->path_len);
        if ((uint64_t)st.st_size != e->row->size || !same_time(st.st_mtim, e->before_mtime) ||
            !same_time(st.st_ctim, e->before_ctime))
            return changed(e, e->row, err);
    }
    drop_file(e);
    return 0;
}

/* Sparse files: which kind of segment begins at pos and how far it goes. */
static int locate_segment(struct fl_encode *e, struct fl_error *err)
{
    off_t at = lseek(e->fd, (off_t)e->pos, SEEK_DATA);

    if (at < 0 && errno == ENXIO) {
        e->hole_until = e->pos + e->left;
        return 0;
    }
    if (at > (off_t)e->pos) {
        e->hole_until = (uint64_t)at;
        return 0;
    }
    if (at >= 0)
        at = lseek(e->fd, (off_t)e->pos, SEEK_HOLE);
    if (at < 0 && errno != EINVAL && errno != EOPNOTSUPP)
        return fl_error_os(err, errno, "lseek", fl_row_path(e->table, e->row),
                           e->row->path_len);
    e->data_until = at > (off_t)e->pos ? (uint64_t)at : e->pos + e->left;
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
        if (e->pos >= e->data_until && e->pos >= e->hole_until &&
            locate_segment(e, err) < 0)
            return -1;
        if (e->pos < e->hole_until) {
            n = (ssize_t)smaller(want, e->hole_until - e->pos);
            memset(buf, 0, (size_t)n);
            return n;
        }
        want = smaller(want, e->data_until - e->pos);
    }
    do
        n = pread(e->fd, buf, want, (off_t)e->pos);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return fl_error_os(err, errno, "read", fl_row_path(e->table, e->row),
                           e->row->path_len);
    return n > 0 ? n : changed(e, e->row, err);
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

/* A layer reads a component ".wh.*" as a whiteout, so it cannot carry one. */
static bool has_whiteout_name(const uint8_t *path, uint32_t len)
{
    if (len >= 4 && memcmp(path, ".wh.", 4) == 0)
        return true;
    return memmem(path, len, "/.wh.", 5) != NULL;
}

static int begin_row(struct fl_encode *e, const struct fl_row *r, struct fl_error *err)
{
    if (has_whiteout_name(fl_row_path(e->table, r), r->path_len))
        return fl_error_set(err, FL_ERR_UNSAFE, fl_row_path(e->table, r), r->path_len,
                            "a name with .wh. means a deletion inside a layer: rename it");
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
    if (e->fd >= 0) {
        got = take_content(e, buf, cap, err);
        if (got < 0)
            return -1;
        e->pos += (uint64_t)got;
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
