#include "fl_pax.h"

#include "fl_number.h"

#define LENGTH_DIGITS 9
#define XATTR_NAME_MAX 255u /* the kernel's */

#define SCHILY "SCHILY.xattr."
#define LIBARCHIVE "LIBARCHIVE.xattr."

/* An attribute as found; the blob is made from these at the end. */
struct attr {
    struct fl_slice name;
    struct fl_slice value;
    uint32_t number;  /* later wins */
    bool fallback;    /* LIBARCHIVE: only where SCHILY has none */
};

static int malformed(struct fl_error *err, int64_t at, const char *what)
{
    return fl_error_format(err, at, "malformed extended header: %s", what);
}

int fl_pax_next(const uint8_t **body, const uint8_t *end,
                struct fl_pax_record *ret_record, int64_t at,
                struct fl_error *err)
{
    const uint8_t *start = *body, *p = start, *last, *equals;
    uint32_t n = 0;

    if (start == end)
        return 0;
    while (p < end && p - start < LENGTH_DIGITS && fl_is_digit(*p))
        n = n * 10 + (uint32_t)(*p++ - '0');
    if (p == start || p == end || *p != ' ')
        return malformed(err, at, "record length");
    p++;
    if (n > (size_t)(end - start) || n <= (size_t)(p - start))
        return malformed(err, at, "record length");
    last = start + n - 1;
    if (*last != '\n')
        return malformed(err, at, "record without a newline");
    equals = memchr(p, '=', (size_t)(last - p));
    if (equals == NULL || equals == p)
        return malformed(err, at, "record without a key");
    if (memchr(p, '\0', (size_t)(equals - p)) != NULL)
        return malformed(err, at, "NUL in a key");
    ret_record->key = (struct fl_slice){p, (uint32_t)(equals - p)};
    ret_record->value = (struct fl_slice){equals + 1, (uint32_t)(last - equals - 1)};
    *body = last + 1;
    return 1;
}

int fl_pax_check(const uint8_t *body, size_t len, int64_t at,
                 struct fl_error *err)
{
    const uint8_t *end;
    struct fl_pax_record rec;
    int r;

    if (len == 0)
        return 0;
    end = body + len;
    while ((r = fl_pax_next(&body, end, &rec, at, err)) > 0)
        ;
    return r;
}

/* ---- single values ---------------------------------------------------- */

static int set_name(struct fl_slice *ret, struct fl_slice v, int64_t at,
                    struct fl_error *err)
{
    if (memchr(v.data, '\0', v.len) != NULL)
        return malformed(err, at, "NUL in a name");
    *ret = v;
    return 0;
}

static int set_number(uint64_t *ret, struct fl_slice v, int64_t at,
                      struct fl_error *err)
{
    if (fl_number_decimal(v.data, v.len, ret) < 0)
        return malformed(err, at, "number");
    return 0;
}

static int set_map(struct fl_pax *p, struct fl_slice v, int64_t at,
                   struct fl_error *err)
{
    if (p->set & FL_PAX_SPARSE_PAIRS)
        return malformed(err, at, "two sparse maps");
    fl_sparse_reset(&p->sparse);
    return fl_sparse_add_list(&p->sparse, v.data, v.len, at, err);
}

/* Positional records of GNU.sparse 0.0: offset and numbytes in turns. */
static int add_pair(struct fl_pax *p, bool numbytes, struct fl_slice v,
                    int64_t at, struct fl_error *err)
{
    uint64_t number = 0;

    if (p->set & FL_PAX_SPARSE_MAP)
        return malformed(err, at, "two sparse maps");
    if (numbytes != p->sparse.half)
        return malformed(err, at, "sparse map out of order");
    if (set_number(&number, v, at, err) < 0)
        return -1;
    p->set |= FL_PAX_SPARSE_PAIRS;
    return fl_sparse_add(&p->sparse, number, err);
}

#define KEY(name, bit) {name, sizeof(name) - 1, bit}

static const struct {
    const char *name;
    uint32_t len;
    uint32_t bit;
} KEYS[] = {
    KEY("path", FL_PAX_PATH),
    KEY("linkpath", FL_PAX_LINKPATH),
    KEY("size", FL_PAX_SIZE),
    KEY("uid", FL_PAX_UID),
    KEY("gid", FL_PAX_GID),
    KEY("mtime", FL_PAX_MTIME),
    KEY("GNU.sparse.name", FL_PAX_SPARSE_NAME),
    KEY("GNU.sparse.size", FL_PAX_SPARSE_SIZE),
    KEY("GNU.sparse.realsize", FL_PAX_SPARSE_REALSIZE),
    KEY("GNU.sparse.major", FL_PAX_SPARSE_MAJOR),
    KEY("GNU.sparse.minor", FL_PAX_SPARSE_MINOR),
    KEY("GNU.sparse.numblocks", FL_PAX_SPARSE_BLOCKS),
    KEY("GNU.sparse.map", FL_PAX_SPARSE_MAP),
};

static uint32_t key_bit(struct fl_slice key)
{
    for (size_t i = 0; i < sizeof(KEYS) / sizeof(KEYS[0]); i++) {
        if (KEYS[i].len == key.len && memcmp(KEYS[i].name, key.data, key.len) == 0)
            return KEYS[i].bit;
    }
    return 0;
}

static int set_value(struct fl_pax *p, uint32_t bit, struct fl_slice v,
                     int64_t at, struct fl_error *err)
{
    switch (bit) {
    case FL_PAX_PATH:
        return set_name(&p->path, v, at, err);
    case FL_PAX_LINKPATH:
        return set_name(&p->linkpath, v, at, err);
    case FL_PAX_SPARSE_NAME:
        return set_name(&p->sparse_name, v, at, err);
    case FL_PAX_SIZE:
        return set_number(&p->size, v, at, err);
    case FL_PAX_UID:
        return set_number(&p->uid, v, at, err);
    case FL_PAX_GID:
        return set_number(&p->gid, v, at, err);
    case FL_PAX_MTIME:
        if (fl_number_time(v.data, v.len, &p->mtime_sec, &p->mtime_nsec) < 0)
            return malformed(err, at, "mtime");
        return 0;
    case FL_PAX_SPARSE_SIZE:
        return set_number(&p->sparse_size, v, at, err);
    case FL_PAX_SPARSE_REALSIZE:
        return set_number(&p->sparse_realsize, v, at, err);
    case FL_PAX_SPARSE_MAJOR:
        return set_number(&p->sparse_major, v, at, err);
    case FL_PAX_SPARSE_MINOR:
        return set_number(&p->sparse_minor, v, at, err);
    case FL_PAX_SPARSE_BLOCKS:
        return set_number(&p->sparse_blocks, v, at, err);
    default:
        return set_map(p, v, at, err);
    }
}

static int unset(struct fl_pax *p, uint32_t bit)
{
    if (p->set & bit & FL_PAX_SPARSE_MAP)
        fl_sparse_reset(&p->sparse);
    p->set &= ~bit;
    return 0;
}

/* ---- extended attributes ---------------------------------------------- */

static int add_attr(struct fl_pax *p, struct fl_slice name,
                    struct fl_slice value, bool fallback, int64_t at,
                    struct fl_error *err)
{
    struct attr a = {
        .name = name,
        .value = value,
        .number = (uint32_t)(p->found.len / sizeof(a)),
        .fallback = fallback,
    };

    if (name.len == 0 || name.len > XATTR_NAME_MAX)
        return malformed(err, at, "name of an extended attribute");
    return fl_buf_add(&p->found, &a, sizeof(a), NULL, err);
}

static int hex_digit(uint8_t c)
{
    if (fl_is_digit(c))
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes %XX into out (at least src.len bytes). Returns the length or -1. */
static int64_t percent_decode(struct fl_slice src, uint8_t *out)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < src.len; i++) {
        uint8_t c = src.data[i];

        if (c == '%') {
            int hi = i + 2 < src.len ? hex_digit(src.data[i + 1]) : -1;
            int lo = hi >= 0 ? hex_digit(src.data[i + 2]) : -1;

            if (lo < 0 || hi + lo == 0)
                return -1;
            c = (uint8_t)(hi << 4 | lo);
            i += 2;
        }
        out[n++] = c;
    }
    return n;
}

static int base64_digit(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (fl_is_digit(c))
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Padding may be missing, as libarchive writes it. Returns the length or -1. */
static int64_t base64_decode(struct fl_slice src, uint8_t *out)
{
    uint32_t bits = 0, n = 0, len = src.len;

    for (int pad = 0; pad < 2 && len > 0 && len % 4 != 1 && src.data[len - 1] == '='; pad++)
        len--;
    if (len % 4 == 1 || (len != src.len && src.len % 4 != 0))
        return -1;
    for (uint32_t i = 0; i < len; i++) {
        int d = base64_digit(src.data[i]);

        if (d < 0)
            return -1;
        bits = bits << 6 | (uint32_t)d;
        if (i % 4 != 0)
            out[n++] = (uint8_t)(bits >> (6 - 2 * (i % 4)));
    }
    return n;
}

/* Name and value are decoded into scratch, which has room for the whole body,
 * so that the slices stay valid. */
static int add_encoded(struct fl_pax *p, struct fl_slice name,
                       struct fl_slice value, int64_t at, struct fl_error *err)
{
    uint8_t *out = p->scratch.data + p->scratch.len;
    int64_t name_len = percent_decode(name, out);
    int64_t value_len;

    if (name_len < 0)
        return malformed(err, at, "name of an extended attribute");
    value_len = base64_decode(value, out + name_len);
    if (value_len < 0)
        return malformed(err, at, "base64 of an extended attribute");
    p->scratch.len += (size_t)(name_len + value_len);
    return add_attr(p, (struct fl_slice){out, (uint32_t)name_len},
                    (struct fl_slice){out + name_len, (uint32_t)value_len},
                    true, at, err);
}

/* By name; of one name the one that counts first. */
static int compare_attrs(const void *left, const void *right)
{
    const struct attr *a = left, *b = right;
    uint32_t n = a->name.len < b->name.len ? a->name.len : b->name.len;
    int r = memcmp(a->name.data, b->name.data, n);

    if (r != 0)
        return r;
    if (a->name.len != b->name.len)
        return a->name.len < b->name.len ? -1 : 1;
    if (a->fallback != b->fallback)
        return a->fallback ? 1 : -1;
    return a->number > b->number ? -1 : 1;
}

static bool same_name(const struct attr *a, const struct attr *b)
{
    return a->name.len == b->name.len &&
           memcmp(a->name.data, b->name.data, a->name.len) == 0;
}

static int add_to_blob(struct fl_buf *blob, const struct attr *a,
                       struct fl_error *err)
{
    uint16_t name_len = (uint16_t)a->name.len;
    uint32_t value_len = a->value.len;

    if (fl_buf_add(blob, &name_len, sizeof(name_len), NULL, err) < 0 ||
        fl_buf_add(blob, &value_len, sizeof(value_len), NULL, err) < 0 ||
        fl_buf_add(blob, a->name.data, name_len, NULL, err) < 0)
        return -1;
    return fl_buf_add(blob, a->value.data, value_len, NULL, err);
}

static int make_blob(struct fl_pax *p, struct fl_error *err)
{
    struct attr *attrs = (struct attr *)(void *)p->found.data;
    size_t n = p->found.len / sizeof(*attrs);

    if (n > 1)
        qsort(attrs, n, sizeof(*attrs), compare_attrs);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && same_name(&attrs[i - 1], &attrs[i]))
            continue;
        if (add_to_blob(&p->xattrs, &attrs[i], err) < 0)
            return -1;
    }
    return 0;
}

/* ---- records ---------------------------------------------------------- */

static bool cut_prefix(struct fl_slice *key, const char *prefix, uint32_t n)
{
    if (key->len < n || memcmp(key->data, prefix, n) != 0)
        return false;
    key->data += n;
    key->len -= n;
    return true;
}

static bool is_key(struct fl_slice key, const char *name, uint32_t n)
{
    return key.len == n && memcmp(key.data, name, n) == 0;
}

#define CUT_PREFIX(key, s) cut_prefix(key, s, sizeof(s) - 1)
#define IS_KEY(key, s) is_key(key, s, sizeof(s) - 1)

static int take_record(struct fl_pax *p, struct fl_pax_record rec, int64_t at,
                       struct fl_error *err)
{
    uint32_t bit;

    if (CUT_PREFIX(&rec.key, SCHILY))
        return add_attr(p, rec.key, rec.value, false, at, err);
    if (CUT_PREFIX(&rec.key, LIBARCHIVE))
        return add_encoded(p, rec.key, rec.value, at, err);
    if (IS_KEY(rec.key, "GNU.sparse.offset"))
        return add_pair(p, false, rec.value, at, err);
    if (IS_KEY(rec.key, "GNU.sparse.numbytes"))
        return add_pair(p, true, rec.value, at, err);
    bit = key_bit(rec.key);
    if (bit == 0)
        return 0;
    if (rec.value.len == 0)
        return unset(p, bit);
    p->set |= bit;
    return set_value(p, bit, rec.value, at, err);
}

int fl_pax_parse(struct fl_pax *p, const uint8_t *body, size_t len, int64_t at,
                 struct fl_error *err)
{
    const uint8_t *end;
    struct fl_pax_record rec;
    int r;

    if (len == 0)
        return 0;
    end = body + len;
    if (fl_buf_reserve(&p->scratch, len, err) < 0)
        return -1;
    while ((r = fl_pax_next(&body, end, &rec, at, err)) > 0) {
        if (take_record(p, rec, at, err) < 0)
            return -1;
    }
    return r < 0 ? -1 : make_blob(p, err);
}

void fl_pax_reset(struct fl_pax *p)
{
    p->set = 0;
    p->xattrs.len = 0;
    p->found.len = 0;
    p->scratch.len = 0;
    fl_sparse_reset(&p->sparse);
}

void fl_pax_free(struct fl_pax *p)
{
    fl_buf_free(&p->xattrs);
    fl_buf_free(&p->found);
    fl_buf_free(&p->scratch);
    fl_sparse_free(&p->sparse);
    p->set = 0;
}
