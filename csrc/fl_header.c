#include "fl_header.h"

#include <stdbool.h>
#include <string.h>

#define NAME_MAX_USTAR 100u
#define PREFIX_MAX_USTAR 155u
#define OCTAL7 07777777u
#define OCTAL11 077777777777ull

/* Byte offsets of POSIX ustar fields. */
enum {
    AT_NAME = 0,
    AT_MODE = 100,
    AT_UID = 108,
    AT_GID = 116,
    AT_SIZE = 124,
    AT_MTIME = 136,
    AT_CHKSUM = 148,
    AT_TYPE = 156,
    AT_LINK = 157,
    AT_MAGIC = 257,
    AT_MAJOR = 329,
    AT_MINOR = 337,
    AT_PREFIX = 345,
};

static void octal(uint8_t *field, unsigned digits, uint64_t value)
{
    field[digits] = 0;
    while (digits-- > 0) {
        field[digits] = (uint8_t)('0' + (value & 7));
        value >>= 3;
    }
}

static void checksum(uint8_t *block)
{
    uint32_t sum = 0;

    memset(block + AT_CHKSUM, ' ', 8);
    for (unsigned i = 0; i < FL_HEADER_BLOCK; i++)
        sum += block[i];
    octal(block + AT_CHKSUM, 6, sum);
}

/* Splits at the last slash that leaves 1..100 bytes as the name; 0 = not possible. */
static uint32_t split_at(const uint8_t *path, uint32_t len)
{
    uint32_t i = len - 2 < PREFIX_MAX_USTAR ? len - 2 : PREFIX_MAX_USTAR;

    for (; i > 0; i--)
        if (path[i] == '/')
            return len - i - 1 <= NAME_MAX_USTAR ? i : 0;
    return 0;
}

/* Returns whether the path did not fit and needs PAX. */
static bool put_path(uint8_t *block, const uint8_t *path, uint32_t len)
{
    uint32_t cut;

    if (len <= NAME_MAX_USTAR) {
        memcpy(block + AT_NAME, path, len);
        return false;
    }
    cut = split_at(path, len);
    if (cut == 0) {
        memcpy(block + AT_NAME, path, NAME_MAX_USTAR);
        return true;
    }
    memcpy(block + AT_PREFIX, path, cut);
    memcpy(block + AT_NAME, path + cut + 1, len - cut - 1);
    return false;
}

static void put_common(uint8_t *block, uint8_t type, uint32_t mode)
{
    octal(block + AT_MODE, 7, mode & 07777);
    block[AT_TYPE] = type;
    memcpy(block + AT_MAGIC, "ustar\0" "00", 8);
}

static uint64_t clamped_time(int64_t sec)
{
    if (sec < 0)
        return 0;
    return (uint64_t)sec > OCTAL11 ? OCTAL11 : (uint64_t)sec;
}

/* ---- PAX records ------------------------------------------------------------------------ */

static unsigned digits_of(size_t n)
{
    unsigned d = 1;

    for (; n >= 10; n /= 10)
        d++;
    return d;
}

/* Writes value so that it ends before `end`; returns its first digit. */
static uint8_t *decimal(uint8_t *end, uint64_t value)
{
    do {
        *--end = (uint8_t)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    return end;
}

/* The start "LENGTH key=" of a record whose value has value_len bytes; LENGTH
 * counts the whole record: itself, the blank, '=' and the newline too. */
static int begin_record(struct fl_buf *b, const char *prefix, const void *key,
                        size_t key_len, size_t value_len, struct fl_error *err)
{
    size_t body = strlen(prefix) + key_len + value_len + 3;
    size_t total = body + digits_of(body + digits_of(body));
    uint8_t text[21], *start;

    text[20] = ' ';
    start = decimal(text + 20, total);
    if (fl_buf_add(b, start, (size_t)(text + 21 - start), NULL, err) < 0 ||
        fl_buf_add(b, prefix, strlen(prefix), NULL, err) < 0 ||
        fl_buf_add(b, key, key_len, NULL, err) < 0)
        return -1;
    return fl_buf_add(b, "=", 1, NULL, err);
}

static int add_record(struct fl_buf *b, const char *key, const void *value,
                      size_t value_len, struct fl_error *err)
{
    if (begin_record(b, key, "", 0, value_len, err) < 0 ||
        fl_buf_add(b, value, value_len, NULL, err) < 0)
        return -1;
    return fl_buf_add(b, "\n", 1, NULL, err);
}

static int add_number(struct fl_buf *b, const char *key, uint64_t value,
                      struct fl_error *err)
{
    uint8_t text[20], *end = text + sizeof(text);
    uint8_t *start = decimal(end, value);

    return add_record(b, key, start, (size_t)(end - start), err);
}

/* The exact decimal value, without trailing zeros: -2 s + 0.5 s is "-1.5". */
static int add_mtime(struct fl_buf *b, int64_t sec, uint32_t nsec,
                     struct fl_error *err)
{
    uint64_t whole = (uint64_t)sec;
    uint32_t digits = 9;
    uint8_t text[32], *end = text + sizeof(text), *at = end;

    if (sec < 0) {
        whole = 0 - whole - (nsec != 0);
        nsec = nsec != 0 ? 1000000000u - nsec : 0;
    }
    for (; digits > 0 && nsec % 10 == 0; digits--)
        nsec /= 10;
    if (digits != 0) {
        for (; digits > 0; digits--, nsec /= 10)
            *--at = (uint8_t)('0' + nsec % 10);
        *--at = '.';
    }
    at = decimal(at, whole);
    if (sec < 0)
        *--at = '-';
    return add_record(b, "mtime", at, (size_t)(end - at), err);
}

/* ---- extended attributes ---------------------------------------------------------------- */

static int add_percent(struct fl_buf *b, const uint8_t *name, size_t len,
                       struct fl_error *err)
{
    static const char hex[] = "0123456789ABCDEF";

    if (fl_buf_reserve(b, len * 3, err) < 0)
        return -1;
    for (size_t i = 0; i < len; i++) {
        uint8_t c = name[i];

        if (c > 32 && c < 127 && c != '%' && c != '=') {
            b->data[b->len++] = c;
            continue;
        }
        b->data[b->len++] = '%';
        b->data[b->len++] = (uint8_t)hex[c >> 4];
        b->data[b->len++] = (uint8_t)hex[c & 15];
    }
    return 0;
}

static size_t base64_size(size_t n)
{
    return n / 3 * 4 + (n % 3 != 0 ? n % 3 + 1 : 0);
}

static int add_base64(struct fl_buf *b, const uint8_t *value, size_t len,
                      struct fl_error *err)
{
    static const char digit[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    if (fl_buf_reserve(b, base64_size(len), err) < 0)
        return -1;
    for (size_t i = 0; i < len; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t bits = (uint32_t)value[i] << 16;

        bits |= n > 1 ? (uint32_t)value[i + 1] << 8 : 0;
        bits |= n > 2 ? value[i + 2] : 0;
        for (size_t k = 0; k <= n; k++)
            b->data[b->len++] = (uint8_t)digit[bits >> (18 - 6 * k) & 63];
    }
    return 0;
}

static int add_escaped_xattr(struct fl_buf *b, const uint8_t *name, size_t name_len,
                             const uint8_t *value, size_t value_len,
                             struct fl_error *err)
{
    struct fl_buf key = {0};
    int r = -1;

    if (add_percent(&key, name, name_len, err) == 0 &&
        begin_record(b, "LIBARCHIVE.xattr.", key.data, key.len,
                     base64_size(value_len), err) == 0 &&
        add_base64(b, value, value_len, err) == 0)
        r = fl_buf_add(b, "\n", 1, NULL, err);
    fl_buf_free(&key);
    return r;
}

static int add_xattr(struct fl_buf *b, const uint8_t *name, size_t name_len,
                     const uint8_t *value, size_t value_len, struct fl_error *err)
{
    if (memchr(name, '=', name_len) != NULL)
        return add_escaped_xattr(b, name, name_len, value, value_len, err);
    if (begin_record(b, "SCHILY.xattr.", name, name_len, value_len, err) < 0 ||
        fl_buf_add(b, value, value_len, NULL, err) < 0)
        return -1;
    return fl_buf_add(b, "\n", 1, NULL, err);
}

static int add_xattrs(struct fl_buf *b, const uint8_t *blob, uint32_t len,
                      struct fl_error *err)
{
    const uint8_t *end = blob + len;

    while (blob < end) {
        uint16_t name_len;
        uint32_t value_len;

        memcpy(&name_len, blob, 2);
        memcpy(&value_len, blob + 2, 4);
        blob += 6;
        if (add_xattr(b, blob, name_len, blob + name_len, value_len, err) < 0)
            return -1;
        blob += name_len + value_len;
    }
    return 0;
}

/* ---- UTF-8 ------------------------------------------------------------------------------ */

/* Bytes of the sequence at s, 0 if it is none: no overlong forms, no surrogates,
 * nothing above U+10FFFF. */
static unsigned utf8_sequence(const uint8_t *s, size_t n)
{
    uint8_t low = 0x80, high = 0xBF;
    unsigned want;

    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xC2 || s[0] > 0xF4)
        return 0;
    want = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    if (s[0] == 0xE0)
        low = 0xA0;
    else if (s[0] == 0xED)
        high = 0x9F;
    else if (s[0] == 0xF0)
        low = 0x90;
    else if (s[0] == 0xF4)
        high = 0x8F;
    if (n < want || s[1] < low || s[1] > high)
        return 0;
    for (unsigned i = 2; i < want; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    return want;
}

static bool is_utf8(const uint8_t *s, size_t n)
{
    while (n > 0) {
        unsigned k = utf8_sequence(s, n);

        if (k == 0)
            return false;
        s += k;
        n -= k;
    }
    return true;
}

/* ---- the entry -------------------------------------------------------------------------- */

enum {
    NEED_PATH = 1,
    NEED_LINK = 2,
    NEED_MTIME = 4,
    NEED_UID = 8,
    NEED_GID = 16,
    NEED_SIZE = 32,
};

static int add_records(struct fl_buf *b, const struct fl_header *h, unsigned need,
                       struct fl_error *err)
{
    if (((need & NEED_PATH) && !is_utf8(h->path, h->path_len)) ||
        ((need & NEED_LINK) && !is_utf8(h->link, h->link_len)))
        if (add_record(b, "hdrcharset", "BINARY", 6, err) < 0)
            return -1;
    if ((need & NEED_GID) && add_number(b, "gid", h->gid, err) < 0)
        return -1;
    if ((need & NEED_LINK) &&
        add_record(b, "linkpath", h->link, h->link_len, err) < 0)
        return -1;
    if ((need & NEED_MTIME) && add_mtime(b, h->mtime_sec, h->mtime_nsec, err) < 0)
        return -1;
    if ((need & NEED_PATH) && add_record(b, "path", h->path, h->path_len, err) < 0)
        return -1;
    if ((need & NEED_SIZE) && add_number(b, "size", h->size, err) < 0)
        return -1;
    if ((need & NEED_UID) && add_number(b, "uid", h->uid, err) < 0)
        return -1;
    return add_xattrs(b, h->xattrs, h->xattr_len, err);
}

/* "PaxHeaders.0/" and the last component, cut to the field. */
static void put_pax_name(uint8_t *block, const uint8_t *path, uint32_t len)
{
    static const char dir[] = "PaxHeaders.0/";
    const size_t dir_len = sizeof(dir) - 1;
    const uint8_t *slash;
    size_t n;

    while (len > 0 && path[len - 1] == '/')
        len--;
    slash = memrchr(path, '/', len);
    if (slash != NULL) {
        len -= (uint32_t)(slash + 1 - path);
        path = slash + 1;
    }
    n = len < NAME_MAX_USTAR - dir_len ? len : NAME_MAX_USTAR - dir_len;
    memcpy(block + AT_NAME, dir, dir_len);
    memcpy(block + AT_NAME + dir_len, path, n);
}

/* Appends n bytes of zeros and returns where they begin. */
static uint8_t *append_zeros(struct fl_buf *out, size_t n, struct fl_error *err)
{
    uint8_t *at;

    if (fl_buf_reserve(out, n, err) < 0)
        return NULL;
    at = out->data + out->len;
    memset(at, 0, n);
    out->len += n;
    return at;
}

static int write_pax(const struct fl_header *h, unsigned need, struct fl_buf *out,
                     struct fl_buf *scratch, struct fl_error *err)
{
    uint8_t *block;
    size_t pad;

    scratch->len = 0;
    if (add_records(scratch, h, need, err) < 0)
        return -1;
    if (scratch->len > OCTAL11)
        return fl_error_set(err, FL_ERR_LIMIT, h->path, h->path_len,
                            "extended attributes too large for a tar");
    block = append_zeros(out, FL_HEADER_BLOCK, err);
    if (block == NULL)
        return -1;
    put_pax_name(block, h->path, h->path_len);
    put_common(block, 'x', 0644);
    octal(block + AT_UID, 7, 0);
    octal(block + AT_GID, 7, 0);
    octal(block + AT_SIZE, 11, scratch->len);
    octal(block + AT_MTIME, 11, 0);
    octal(block + AT_MAJOR, 7, 0);
    octal(block + AT_MINOR, 7, 0);
    checksum(block);
    pad = -scratch->len & (FL_HEADER_BLOCK - 1);
    if (fl_buf_add(out, scratch->data, scratch->len, NULL, err) < 0)
        return -1;
    return append_zeros(out, pad, err) == NULL ? -1 : 0;
}

/* Fills the ustar block; returns what did not fit (NEED_*). */
static unsigned fill_block(uint8_t *block, const struct fl_header *h)
{
    unsigned need = 0;

    if (put_path(block, h->path, h->path_len))
        need |= NEED_PATH;
    if (h->link_len > NAME_MAX_USTAR)
        need |= NEED_LINK;
    if (h->mtime_nsec != 0 || h->mtime_sec < 0 || (uint64_t)h->mtime_sec > OCTAL11)
        need |= NEED_MTIME;
    need |= (h->uid > OCTAL7 ? NEED_UID : 0) | (h->gid > OCTAL7 ? NEED_GID : 0) |
            (h->size > OCTAL11 ? NEED_SIZE : 0);
    put_common(block, h->type, h->mode);
    octal(block + AT_UID, 7, need & NEED_UID ? 0 : h->uid);
    octal(block + AT_GID, 7, need & NEED_GID ? 0 : h->gid);
    octal(block + AT_SIZE, 11, need & NEED_SIZE ? 0 : h->size);
    octal(block + AT_MTIME, 11, clamped_time(h->mtime_sec));
    octal(block + AT_MAJOR, 7, h->rdev_major);
    octal(block + AT_MINOR, 7, h->rdev_minor);
    if (h->link_len != 0)
        memcpy(block + AT_LINK, h->link,
               need & NEED_LINK ? NAME_MAX_USTAR : h->link_len);
    checksum(block);
    return need;
}

int fl_header_write(const struct fl_header *h, struct fl_buf *out,
                    struct fl_buf *scratch, struct fl_error *err)
{
    uint8_t block[FL_HEADER_BLOCK] = {0};
    unsigned need = fill_block(block, h);

    if ((need != 0 || h->xattr_len != 0) &&
        write_pax(h, need, out, scratch, err) < 0)
        return -1;
    return fl_buf_add(out, block, FL_HEADER_BLOCK, NULL, err);
}
