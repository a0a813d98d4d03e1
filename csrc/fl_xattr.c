#include "fl_xattr.h"

#include <errno.h>
#include <string.h>

#include "fl_sys.h"

#define LIST_MAX 65536u  /* XATTR_LIST_MAX */
#define VALUE_MAX 65536u /* XATTR_SIZE_MAX */
#define FIRST_TRY 512u   /* the kernel allocates as much as it is offered, each time */
#define HEAD 6u          /* u16 name length, u32 value length */

void fl_xattr_reader_free(struct fl_xattr_reader *r)
{
    fl_buf_free(&r->list);
}

static bool is_named(const char *name, size_t len, const char *want)
{
    return len == strlen(want) && memcmp(name, want, len) == 0;
}

static bool has_prefix(const char *name, size_t len, const char *want)
{
    return len >= strlen(want) && memcmp(name, want, strlen(want)) == 0;
}

bool fl_xattr_is_host_only(const char *name, size_t len)
{
    return is_named(name, len, "security.selinux") || has_prefix(name, len, "btrfs.") ||
           is_named(name, len, "trusted.SGI_ACL_FILE") ||
           is_named(name, len, "trusted.SGI_ACL_DEFAULT");
}

static bool travels(enum fl_xattr_policy policy, const char *name, size_t len)
{
    switch (policy) {
    case FL_XATTR_NONE:
        return false;
    case FL_XATTR_DOCKER:
        return is_named(name, len, "security.capability");
    default:
        return !fl_xattr_is_host_only(name, len) && !has_prefix(name, len, "trusted.");
    }
}

static int append(struct fl_buf *out, const void *name, uint16_t name_len,
                  const void *value, uint32_t value_len, struct fl_error *err)
{
    uint8_t head[HEAD];

    memcpy(head, &name_len, 2);
    memcpy(head + 2, &value_len, 4);
    if (fl_buf_add(out, head, HEAD, NULL, err) < 0 ||
        fl_buf_add(out, name, name_len, NULL, err) < 0)
        return -1;
    return fl_buf_add(out, value, value_len, NULL, err);
}

/* The first name after `last` in byte order, NULL when there is none: the
 * kernel lists in any order and a file has few attributes. */
static const char *next_name(const char *list, size_t len, const char *last)
{
    const char *best = NULL;

    for (const char *p = list; p < list + len; p += strlen(p) + 1)
        if ((last == NULL || strcmp(p, last) > 0) &&
            (best == NULL || strcmp(p, best) < 0))
            best = p;
    return best;
}

/* 1 appended, 0 the attribute is gone. */
static int read_value(struct fl_xattr_reader *r, int dirfd, const char *name,
                      const char *attr, struct fl_buf *out, struct fl_error *err)
{
    uint8_t *value = r->list.data + LIST_MAX + 1;
    ssize_t n = fl_sys_getxattrat(dirfd, name, attr, value, FIRST_TRY);

    if (n < 0 && errno == ERANGE)
        n = fl_sys_getxattrat(dirfd, name, attr, value, VALUE_MAX);
    if (n < 0)
        return errno == ENODATA || errno == EOPNOTSUPP
                   ? 0
                   : fl_error_os(err, errno, "getxattr", NULL, 0);
    return append(out, attr, (uint16_t)strlen(attr), value, (uint32_t)n, err) < 0 ? -1 : 1;
}

static int read_listed(struct fl_xattr_reader *r, int dirfd, const char *name,
                       size_t len, struct fl_buf *out, uint32_t *ret_dropped,
                       struct fl_error *err)
{
    const char *list = (const char *)r->list.data, *attr = NULL;

    while ((attr = next_name(list, len, attr)) != NULL) {
        size_t n = strlen(attr);

        if (!travels(r->policy, attr, n))
            *ret_dropped += !fl_xattr_is_host_only(attr, n);
        else if (read_value(r, dirfd, name, attr, out, err) < 0)
            return -1;
    }
    return 0;
}

int fl_xattr_read(struct fl_xattr_reader *r, int dirfd, const char *name,
                  struct fl_buf *out, uint32_t *ret_len, uint32_t *ret_dropped,
                  struct fl_error *err)
{
    size_t start = out->len;
    ssize_t n;

    *ret_len = *ret_dropped = 0;
    if (r->list.cap == 0 &&
        fl_buf_reserve(&r->list, LIST_MAX + 1 + VALUE_MAX, err) < 0)
        return -1;
    n = fl_sys_listxattrat(dirfd, name, (char *)r->list.data, FIRST_TRY);
    if (n < 0 && errno == ERANGE)
        n = fl_sys_listxattrat(dirfd, name, (char *)r->list.data, LIST_MAX);
    if (n == 0 || (n < 0 && errno == EOPNOTSUPP))
        return 0;
    if (n < 0)
        return fl_error_os(err, errno, "listxattr", NULL, 0);
    r->list.data[n] = '\0';
    if (read_listed(r, dirfd, name, (size_t)n, out, ret_dropped, err) < 0)
        return -1;
    *ret_len = (uint32_t)(out->len - start);
    return 0;
}

int fl_xattr_filter(enum fl_xattr_policy policy, const uint8_t *blob,
                    uint32_t len, struct fl_buf *out, uint32_t *ret_len,
                    uint32_t *ret_dropped, struct fl_error *err)
{
    size_t start = out->len;

    *ret_len = *ret_dropped = 0;
    for (uint64_t at = 0; at < len;) {
        const char *name = (const char *)blob + at + HEAD;
        uint16_t name_len;
        uint32_t value_len;

        if (len - at < HEAD)
            return fl_error_format(err, -1, "malformed extended attributes");
        memcpy(&name_len, blob + at, 2);
        memcpy(&value_len, blob + at + 2, 4);
        at += (uint64_t)HEAD + name_len + value_len;
        if (at > len)
            return fl_error_format(err, -1, "malformed extended attributes");
        if (!travels(policy, name, name_len))
            *ret_dropped += !fl_xattr_is_host_only(name, name_len);
        else if (append(out, name, name_len, name + name_len, value_len, err) < 0)
            return -1;
    }
    *ret_len = (uint32_t)(out->len - start);
    return 0;
}
