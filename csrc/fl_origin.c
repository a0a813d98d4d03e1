#include "fl_origin.h"

#include <errno.h>
#include <string.h>

#define RANGE_LEN (2 + sizeof(uint64_t)) /* of an aux 'O' */

static const char busy[] = "changed while the layer was made; try again when the tree is quiet";

int fl_origin_init(struct fl_origin *o, const struct fl_changes *table, const int *roots, uint32_t root_count,
                   struct fl_error *err)
{
    o->table = table;
    o->root_count = root_count;
    o->roots = calloc(root_count ? root_count : 1, sizeof(*o->roots));
    if (o->roots == NULL)
        return fl_error_memory(err);
    for (uint32_t i = 0; i < root_count; i++)
        fl_open_init(&o->roots[i], roots[i]);
    return 0;
}

void fl_origin_free(struct fl_origin *o)
{
    for (uint32_t i = 0; o->roots != NULL && i < o->root_count; i++)
        fl_open_free(&o->roots[i]);
    free(o->roots);
    o->roots = NULL;
    o->root_count = 0;
}

int fl_origin_changed(const struct fl_changes *t, const struct fl_row *r, struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_CHANGED, fl_row_path(t, r), r->path_len, "%s", busy);
}

int fl_origin_bad_row(const struct fl_changes *t, const struct fl_row *r, struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_USAGE, fl_row_path(t, r), r->path_len,
                        "the change table has a row that cannot be in a layer");
}

/* ---- opening ---------------------------------------------------------- */

static bool has_ctime(const struct stat *st, const uint8_t *listed)
{
    uint64_t ctime = fl_aux_nanoseconds(st->st_ctim.tv_sec, st->st_ctim.tv_nsec);

    return memcmp(listed, &ctime, sizeof(ctime)) == 0;
}

/* Is it the file that was listed at this path? */
static bool is_listed(const struct fl_row *r, const struct stat *st)
{
    return st->st_mtim.tv_sec == r->mtime_sec && st->st_mtim.tv_nsec == (int64_t)r->mtime_nsec &&
           (r->ino == 0 || st->st_ino == r->ino);
}

/* ctime: as in the aux, or NULL. */
static int open_path(struct fl_origin *o, const struct fl_row *r, uint32_t root, const uint8_t *path, uint32_t len,
                     const uint8_t *ctime, struct fl_origin_file *ret, struct fl_error *err)
{
    if (root >= o->root_count)
        return fl_origin_bad_row(o->table, r, err);
    if (fl_open_file(&o->roots[root], path, len, &ret->fd, err) < 0)
        return -1;
    ret->own = true;
    if (fstat(ret->fd, &ret->st) < 0)
        return fl_error_os(err, errno, "fstat", fl_row_path(o->table, r), r->path_len);
    if (!S_ISREG(ret->st.st_mode) || (uint64_t)ret->st.st_size != r->size ||
        (ctime != NULL && !has_ctime(&ret->st, ctime)))
        return fl_origin_changed(o->table, r, err);
    return 0;
}

static int open_own(struct fl_origin *o, const struct fl_row *r, const uint8_t *ctime, struct fl_origin_file *ret,
                    struct fl_error *err)
{
    if (open_path(o, r, 0, fl_row_path(o->table, r), r->path_len, ctime, ret, err) < 0)
        return -1;
    return is_listed(r, &ret->st) ? 0 : fl_origin_changed(o->table, r, err);
}

/* The bytes are a range of the file that is the root itself (a tar operand, a file of here-documents). */
static int open_range(struct fl_origin *o, const struct fl_row *r, const uint8_t *aux, struct fl_origin_file *ret,
                      struct fl_error *err)
{
    if (r->link_len != RANGE_LEN || aux[1] >= o->root_count)
        return fl_origin_bad_row(o->table, r, err);
    memcpy(&ret->pos, aux + 2, sizeof(ret->pos));
    ret->fd = o->roots[aux[1]].root;
    return 0;
}

static int open_elsewhere(struct fl_origin *o, const struct fl_row *r, const uint8_t *aux, struct fl_origin_file *ret,
                          struct fl_error *err)
{
    bool dated = aux[0] == 'F';
    uint32_t head = dated ? FL_AUX_DATED_HEAD : FL_AUX_PATH_HEAD;
    uint16_t root;

    if (r->link_len <= head)
        return fl_origin_bad_row(o->table, r, err);
    memcpy(&root, aux + 1, sizeof(root));
    return open_path(o, r, root, aux + head, r->link_len - head, dated ? aux + FL_AUX_PATH_HEAD : NULL, ret, err);
}

static int open_aux(struct fl_origin *o, const struct fl_row *r, struct fl_origin_file *ret, struct fl_error *err)
{
    const uint8_t *aux = fl_row_link(o->table, r);

    if (r->link_len == FL_AUX_CTIME_LEN && aux[0] == 'C')
        return open_own(o, r, aux + 1, ret, err);
    if (r->link_len != 0 && (aux[0] == 'P' || aux[0] == 'F'))
        return open_elsewhere(o, r, aux, ret, err);
    if (r->link_len != 0 && aux[0] == 'O')
        return open_range(o, r, aux, ret, err);
    return fl_origin_bad_row(o->table, r, err);
}

int fl_origin_open(struct fl_origin *o, const struct fl_row *r, struct fl_origin_file *ret, struct fl_error *err)
{
    int result;

    *ret = (struct fl_origin_file){.fd = -1};
    result = r->flags & FL_ROW_AUX ? open_aux(o, r, ret, err) : open_own(o, r, NULL, ret, err);
    if (result < 0)
        fl_origin_close(ret);
    return result;
}

/* ---- at the end ------------------------------------------------------- */

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

int fl_origin_check(const struct fl_origin *o, const struct fl_row *r, const struct fl_origin_file *f,
                    struct fl_error *err)
{
    struct stat st;

    if (!f->own)
        return 0;
    if (fstat(f->fd, &st) < 0)
        return fl_error_os(err, errno, "fstat", fl_row_path(o->table, r), r->path_len);
    if ((uint64_t)st.st_size != r->size || !same_time(st.st_mtim, f->st.st_mtim) ||
        !same_time(st.st_ctim, f->st.st_ctim))
        return fl_origin_changed(o->table, r, err);
    return 0;
}

void fl_origin_close(struct fl_origin_file *f)
{
    if (f->fd >= 0 && f->own)
        close(f->fd);
    f->fd = -1;
}
