#include "fl_builder.h"

#include <sys/stat.h>

#define NAME_MAX_LEN 255u
#define ID_MAX 4294967294u       /* the one above means "leave it" to chown */
#define MAJOR_MAX 4095u
#define MINOR_MAX 1048575u
#define VALUE_MAX (64u << 20)    /* of all attributes: far more than any file system takes */

void fl_builder_free(struct fl_builder *b)
{
    fl_changes_free(&b->table);
    fl_buf_free(&b->groups);
    fl_buf_free(&b->xattrs);
    fl_buf_free(&b->aux);
    fl_buf_free(&b->last);
}

static int refuse(const struct fl_builder_row *row, const char *why, struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_USAGE, row->path, row->path_len, "%s", why);
}

int fl_builder_xattr(struct fl_builder *b, const void *name, size_t name_len, const void *value, size_t value_len,
                     struct fl_error *err)
{
    size_t shared = name_len < b->last.len ? name_len : b->last.len;
    int order = shared == 0 ? 0 : memcmp(b->last.data, name, shared);
    uint16_t short_len = (uint16_t)name_len;
    uint32_t long_len = (uint32_t)value_len;

    if (name_len == 0 || name_len > NAME_MAX_LEN || memchr(name, '\0', name_len) != NULL ||
        b->xattrs.len + value_len > VALUE_MAX)
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "an extended attribute that no file can have");
    if (b->xattrs.len != 0 && (order > 0 || (order == 0 && name_len <= b->last.len)))
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "extended attributes must be sorted by name");
    b->last.len = 0;
    if (fl_buf_add(&b->last, name, name_len, NULL, err) < 0 ||
        fl_buf_add(&b->xattrs, &short_len, sizeof(short_len), NULL, err) < 0 ||
        fl_buf_add(&b->xattrs, &long_len, sizeof(long_len), NULL, err) < 0 ||
        fl_buf_add(&b->xattrs, name, name_len, NULL, err) < 0)
        return -1;
    return fl_buf_add(&b->xattrs, value, value_len, NULL, err);
}

/* ---- what a row may say ----------------------------------------------- */

static bool is_dots(const uint8_t *name, size_t len)
{
    return (len == 1 && name[0] == '.') || (len == 2 && name[0] == '.' && name[1] == '.');
}

/* The root, or components between single slashes. */
static bool is_plain_path(const uint8_t *path, size_t len)
{
    const uint8_t *end = path + len;

    if (len == 0)
        return true;
    if (memchr(path, '\0', len) != NULL)
        return false;
    for (;;) {
        const uint8_t *slash = memchr(path, '/', (size_t)(end - path));
        size_t part = (size_t)((slash == NULL ? end : slash) - path);

        if (part == 0 || part > NAME_MAX_LEN || is_dots(path, part))
            return false;
        if (slash == NULL)
            return true;
        path = slash + 1;
    }
}

static bool is_known_type(uint32_t mode)
{
    return S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode) || S_ISCHR(mode) || S_ISBLK(mode) || S_ISFIFO(mode);
}

static int check_type(const struct fl_builder_row *row, struct fl_error *err)
{
    if (row->mode > UINT16_MAX || !is_known_type(row->mode))
        return refuse(row, "the mode of a row has no type that a layer can have", err);
    if (!S_ISDIR(row->mode) && (row->path_len == 0 || row->kind == FL_KIND_PARENT))
        return refuse(row, "the root, and a row of kind P, must be a directory", err);
    if (S_ISLNK(row->mode) && (row->link_len == 0 || memchr(row->link, '\0', row->link_len) != NULL))
        return refuse(row, "a symbolic link needs a target, without NUL", err);
    if (!S_ISLNK(row->mode) && row->link_len != 0)
        return refuse(row, "a target of what is no symbolic link", err);
    return 0;
}

static int check_numbers(const struct fl_builder_row *row, struct fl_error *err)
{
    if (row->uid > ID_MAX || row->gid > ID_MAX)
        return refuse(row, "an owner that is no id: 0 to 4294967294 are", err);
    if (row->size > INT64_MAX || row->mtime_nsec > 999999999u)
        return refuse(row, "a size or a time that no file can have", err);
    if (row->rdev_major > MAJOR_MAX || row->rdev_minor > MINOR_MAX)
        return refuse(row, "device numbers that no layer can have", err);
    if (row->is_range && row->root > UINT8_MAX)
        return refuse(row, "bytes at an offset must be in one of the first 256 roots", err);
    if (row->root > UINT16_MAX)
        return refuse(row, "more than 65536 roots", err);
    if (S_ISREG(row->mode) && row->size != 0 && !row->is_range &&
        (row->source_len == 0 || !is_plain_path(row->source, row->source_len)))
        return refuse(row, "the source of a row is not made of plain names", err);
    return 0;
}

static int check_row(const struct fl_builder_row *row, struct fl_error *err)
{
    if (row->kind != FL_KIND_ADD && row->kind != FL_KIND_MODIFY && row->kind != FL_KIND_DELETE &&
        row->kind != FL_KIND_PARENT)
        return refuse(row, "the kind of a row is none of A, C, D and P", err);
    if (!is_plain_path(row->path, row->path_len))
        return refuse(row, "the path of a row is not made of plain names", err);
    if (row->kind == FL_KIND_DELETE)
        return row->path_len != 0 && row->mode <= UINT16_MAX ? 0 : refuse(row, "the root cannot be deleted", err);
    return check_type(row, err) < 0 ? -1 : check_numbers(row, err);
}

/* ---- adding ----------------------------------------------------------- */

static int make_aux(struct fl_builder *b, const struct fl_builder_row *row, struct fl_error *err)
{
    uint8_t head[FL_AUX_DATED_HEAD];
    uint16_t root = (uint16_t)row->root;
    size_t len = FL_AUX_PATH_HEAD;

    b->aux.len = 0;
    if (row->is_range) {
        head[0] = 'O';
        head[1] = (uint8_t)row->root;
        memcpy(head + 2, &row->offset, sizeof(row->offset));
        return fl_buf_add(&b->aux, head, 2 + sizeof(row->offset), NULL, err);
    }
    head[0] = row->ctime_ns != 0 ? 'F' : 'P';
    memcpy(head + 1, &root, sizeof(root));
    if (row->ctime_ns != 0) {
        memcpy(head + FL_AUX_PATH_HEAD, &row->ctime_ns, sizeof(row->ctime_ns));
        len = FL_AUX_DATED_HEAD;
    }
    if (fl_buf_add(&b->aux, head, len, NULL, err) < 0)
        return -1;
    return fl_buf_add(&b->aux, row->source, row->source_len, NULL, err);
}

static void fill(struct fl_row *r, const struct fl_builder_row *row)
{
    r->kind = row->kind;
    r->mode = (uint16_t)row->mode;
    if (S_ISREG(row->mode))
        r->size = row->size;
    if (S_ISCHR(row->mode) || S_ISBLK(row->mode))
        r->size = (uint64_t)row->rdev_major << 32 | row->rdev_minor;
    if (row->kind == FL_KIND_DELETE)
        return;
    r->uid = row->uid;
    r->gid = row->gid;
    r->mtime_sec = row->mtime_sec;
    r->mtime_nsec = row->mtime_nsec;
    if (row->group != 0 && !S_ISDIR(row->mode))
        r->flags |= FL_ROW_GROUP;
}

static int append(struct fl_builder *b, const struct fl_builder_row *row, struct fl_error *err)
{
    bool has_bytes = S_ISREG(row->mode) && row->kind != FL_KIND_DELETE && row->size != 0;
    bool is_link = S_ISLNK(row->mode) && row->kind != FL_KIND_DELETE;
    size_t xattr_len = row->kind == FL_KIND_DELETE ? 0 : b->xattrs.len;
    struct fl_row *r;

    if (has_bytes && make_aux(b, row, err) < 0)
        return -1;
    if (fl_changes_add(&b->table, row->path, row->path_len, has_bytes ? b->aux.data : row->link,
                       has_bytes ? (uint32_t)b->aux.len : is_link ? row->link_len : 0, b->xattrs.data,
                       (uint32_t)xattr_len, &r, err) < 0)
        return -1;
    fill(r, row);
    if (has_bytes)
        r->flags |= FL_ROW_AUX;
    return 0;
}

int fl_builder_add(struct fl_builder *b, const struct fl_builder_row *row, struct fl_error *err)
{
    if (check_row(row, err) < 0 || append(b, row, err) < 0)
        return -1;
    b->xattrs.len = b->last.len = 0;
    return fl_buf_add(&b->groups, &row->group, sizeof(row->group), NULL, err);
}

/* ---- the end ---------------------------------------------------------- */

/* Compares row i with the one before it. */
static int compare_neighbours(const struct fl_changes *t, uint32_t i)
{
    const struct fl_row *a = &t->rows[i - 1], *b = &t->rows[i];
    uint32_t n = a->path_len < b->path_len ? a->path_len : b->path_len;
    int c = memcmp(fl_row_path(t, a), fl_row_path(t, b), n);

    return c != 0 ? c : (a->path_len > b->path_len) - (a->path_len < b->path_len);
}

static bool is_sorted(const struct fl_changes *t)
{
    for (uint32_t i = 1; i < t->count; i++)
        if (compare_neighbours(t, i) > 0)
            return false;
    return true;
}

static int refuse_twins(const struct fl_changes *t, struct fl_error *err)
{
    for (uint32_t i = 1; i < t->count; i++)
        if (compare_neighbours(t, i) == 0)
            return fl_error_set(err, FL_ERR_USAGE, fl_row_path(t, &t->rows[i]), t->rows[i].path_len,
                                "the path has two rows");
    return 0;
}

/* The row of the path, or NULL. */
static const struct fl_row *find_row(const struct fl_changes *t, const uint8_t *path, uint32_t len)
{
    uint32_t lo = 0, hi = t->count;

    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        const struct fl_row *r = &t->rows[mid];
        int c = memcmp(fl_row_path(t, r), path, r->path_len < len ? r->path_len : len);

        if (c == 0 && r->path_len == len)
            return r;
        if (c < 0 || (c == 0 && r->path_len < len))
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* No directory above the row may be anything else in the same table. */
static int check_above(const struct fl_changes *t, const struct fl_row *r, uint32_t dir_len, struct fl_error *err)
{
    const uint8_t *path = fl_row_path(t, r), *slash;

    for (uint32_t len = dir_len; len != 0; len = slash == NULL ? 0 : (uint32_t)(slash - path)) {
        const struct fl_row *above = find_row(t, path, len);

        if (above != NULL && above->kind != FL_KIND_DELETE && !S_ISDIR(above->mode))
            return fl_error_set(err, FL_ERR_USAGE, path, r->path_len, "a row below what is no directory");
        slash = memrchr(path, '/', len);
    }
    return 0;
}

static int refuse_below_files(const struct fl_changes *t, struct fl_error *err)
{
    const uint8_t *last = NULL;
    uint32_t last_len = 0;

    for (uint32_t i = 0; i < t->count; i++) {
        const struct fl_row *r = &t->rows[i];
        const uint8_t *path = fl_row_path(t, r), *slash = r->path_len ? memrchr(path, '/', r->path_len) : NULL;
        uint32_t len = slash == NULL ? 0 : (uint32_t)(slash - path);

        if (len == 0 || (last != NULL && len == last_len && memcmp(path, last, len) == 0))
            continue;
        if (check_above(t, r, len, err) < 0)
            return -1;
        last = path;
        last_len = len;
    }
    return 0;
}

int fl_builder_finish(struct fl_builder *b, struct fl_error *err)
{
    uint32_t *groups = (uint32_t *)(void *)b->groups.data;

    if (!is_sorted(&b->table) && fl_changes_sort(&b->table, groups, err) < 0)
        return -1;
    if (refuse_twins(&b->table, err) < 0 || refuse_below_files(&b->table, err) < 0)
        return -1;
    return fl_changes_finish(&b->table, groups, err);
}
