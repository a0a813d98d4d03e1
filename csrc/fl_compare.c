#include "fl_compare.h"

#include <errno.h>
#include <sys/stat.h>

#include "fl_sys.h"

/* ---- what entries say ---- */

static bool same_bytes(const uint8_t *a, uint32_t a_len, const uint8_t *b, uint32_t b_len)
{
    return a_len == b_len && memcmp(a, b, a_len) == 0;
}

static uint32_t compare_type_specific(const struct fl_entry *a, const uint8_t *a_link,
                                      const struct fl_entry *b, const uint8_t *b_link)
{
    switch (b->mode & S_IFMT) {
    case S_IFREG:
        return a->size != b->size ? FL_WHAT_CONTENT : 0;
    case S_IFLNK:
        return same_bytes(a_link, a->link_len, b_link, b->link_len) ? 0 : FL_WHAT_LINK;
    case S_IFCHR:
    case S_IFBLK:
        return a->rdev_major != b->rdev_major || a->rdev_minor != b->rdev_minor
                   ? FL_WHAT_DEVICE
                   : 0;
    default:
        return 0;
    }
}

uint32_t fl_compare_metadata(const struct fl_entry *a, const uint8_t *a_heap,
                             const struct fl_entry *b, const uint8_t *b_heap)
{
    const uint8_t *a_link = a_heap + a->path_off + a->path_len;
    const uint8_t *b_link = b_heap + b->path_off + b->path_len;
    uint32_t what = compare_type_specific(a, a_link, b, b_link);

    if ((a->mode & 07777) != (b->mode & 07777) && !S_ISLNK(b->mode))
        what |= FL_WHAT_MODE;
    if (a->uid != b->uid || a->gid != b->gid)
        what |= FL_WHAT_OWNER;
    if (a->mtime_sec != b->mtime_sec || a->mtime_nsec != b->mtime_nsec)
        what |= FL_WHAT_MTIME;
    if (!same_bytes(a_link + a->link_len, a->xattr_len, b_link + b->link_len, b->xattr_len))
        what |= FL_WHAT_XATTR;
    return what;
}

/* ---- what files hold ---- */

/* Asking for the extents of both files costs about as much as reading this much. */
#define EXTENTS_FROM 65536u

void fl_content_init(struct fl_content *c, int a_root, int b_root)
{
    memset(c, 0, sizeof(*c));
    fl_open_init(&c->a, a_root);
    fl_open_init(&c->b, b_root);
    c->fd_a = c->fd_b = -1;
}

static void close_files(struct fl_content *c)
{
    if (c->fd_a >= 0)
        close(c->fd_a);
    if (c->fd_b >= 0)
        close(c->fd_b);
    c->fd_a = c->fd_b = -1;
}

void fl_content_free(struct fl_content *c)
{
    close_files(c);
    fl_open_free(&c->a);
    fl_open_free(&c->b);
    free(c->buffers);
    c->buffers = NULL;
}

static int changed(const uint8_t *path, uint32_t path_len, struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_CHANGED, path, path_len,
                        "changed while it was compared; try again when the tree is quiet");
}

static int open_one(struct fl_open *o, const uint8_t *path, uint32_t path_len,
                    const struct fl_entry *e, int *ret_fd, struct fl_error *err)
{
    struct stat st;

    if (fl_open_file(o, path, path_len, ret_fd, err) < 0)
        return -1;
    if (fstat(*ret_fd, &st) < 0)
        return fl_error_os(err, errno, "stat", path, path_len);
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != e->size || st.st_ino != e->ino)
        return changed(path, path_len, err);
    return 0;
}

int fl_content_start(struct fl_content *c, const uint8_t *path, uint32_t path_len,
                     const struct fl_entry *a, const struct fl_entry *b,
                     struct fl_error *err)
{
    if (c->buffers == NULL && (c->buffers = malloc(2 * FL_COMPARE_PIECE)) == NULL)
        return fl_error_memory(err);
    if (open_one(&c->a, path, path_len, a, &c->fd_a, err) < 0 ||
        open_one(&c->b, path, path_len, b, &c->fd_b, err) < 0) {
        close_files(c);
        return -1;
    }
    if (c->try_extents && (a->dev != c->shares_with || b->dev != c->shares_dev)) {
        c->shares = fl_sys_can_share(c->fd_a, c->fd_b);
        c->shares_with = a->dev;
        c->shares_dev = b->dev;
    }
    c->left = b->size;
    if (c->shares && b->size >= EXTENTS_FROM && fl_sys_same_extents(c->fd_a, c->fd_b))
        c->left = 0;
    return 0;
}

int fl_content_adopt(struct fl_content *c, int fd_a, int fd_b, uint64_t size,
                     uint64_t dev, struct fl_error *err)
{
    if (c->buffers == NULL && (c->buffers = malloc(2 * FL_COMPARE_PIECE)) == NULL)
        return fl_error_memory(err);
    c->fd_a = fd_a;
    c->fd_b = fd_b;
    if (c->try_extents && dev != c->shares_dev) {
        c->shares = dev != 0 && fl_sys_can_share(fd_a, fd_b);
        c->shares_dev = dev;
    }
    c->left = size;
    return 0;
}

/* Reads exactly n bytes. */
static int read_piece(int fd, uint8_t *buf, size_t n, const uint8_t *path,
                      uint32_t path_len, struct fl_error *err)
{
    size_t done = 0;

    while (done < n) {
        ssize_t r = read(fd, buf + done, n - done);

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return fl_error_os(err, errno, "read", path, path_len);
        if (r == 0)
            return changed(path, path_len, err);
        done += (size_t)r;
    }
    return 0;
}

static int compare_piece(struct fl_content *c, const uint8_t *path, uint32_t path_len,
                         struct fl_error *err)
{
    size_t n = c->left < FL_COMPARE_PIECE ? (size_t)c->left : FL_COMPARE_PIECE;
    uint8_t *other = c->buffers + FL_COMPARE_PIECE;

    if (read_piece(c->fd_a, c->buffers, n, path, path_len, err) < 0 ||
        read_piece(c->fd_b, other, n, path, path_len, err) < 0)
        return -1;
    if (memcmp(c->buffers, other, n) != 0)
        return FL_CONTENT_DIFFERENT;
    c->left -= n;
    c->bytes += n;
    return c->left == 0 ? FL_CONTENT_EQUAL : FL_CONTENT_MORE;
}

int fl_content_step(struct fl_content *c, uint64_t budget, const uint8_t *path,
                    uint32_t path_len, struct fl_error *err)
{
    uint64_t stop = c->bytes + budget;
    int answer = c->left == 0 ? FL_CONTENT_EQUAL : FL_CONTENT_MORE;

    while (answer == FL_CONTENT_MORE) {
        answer = compare_piece(c, path, path_len, err);
        if (answer == FL_CONTENT_MORE && c->bytes >= stop)
            return answer;
    }
    close_files(c);
    return answer;
}
