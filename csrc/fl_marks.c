#include "fl_marks.h"

#include <errno.h>
#include <linux/limits.h>
#include <stdio.h>
#include <string.h>

#include "fl_sys.h"

#define FIRST_TRY 256u

struct kept_name {
    const char *attr;             /* as the kernel lists it                    */
    char shown[XATTR_NAME_MAX + 1];
};

void fl_marks_free(struct fl_marks *m)
{
    fl_buf_free(&m->redirect);
    fl_buf_free(&m->visible);
    fl_buf_free(&m->names);
    fl_buf_free(&m->kept);
}

static int list_names(struct fl_marks *m, int dir_fd, const char *name,
                      struct fl_error *err)
{
    m->names.len = 0;
    for (;;) {
        ssize_t n;

        if (fl_buf_reserve(&m->names, FIRST_TRY, err) < 0)
            return -1;
        n = fl_sys_listxattrat(dir_fd, name, (char *)m->names.data, m->names.cap);
        if (n >= 0) {
            m->names.len = (size_t)n;
            return 0;
        }
        if (errno == ENOTSUP)
            return 0;
        if (errno != ERANGE)
            return fl_error_os(err, errno, "listxattr", name, strlen(name));
        if (fl_buf_reserve(&m->names, m->names.cap * 4, err) < 0)
            return -1;
    }
}

/* Appends the value to out. Returns its length, -1, or -2 when it is gone. */
static ssize_t read_value(int dir_fd, const char *name, const char *attr,
                          struct fl_buf *out, struct fl_error *err)
{
    for (size_t room = FIRST_TRY;; room *= 4) {
        ssize_t n;

        if (fl_buf_reserve(out, room, err) < 0)
            return -1;
        n = fl_sys_getxattrat(dir_fd, name, attr, out->data + out->len,
                              out->cap - out->len);
        if (n >= 0) {
            out->len += (size_t)n;
            return n;
        }
        if (errno == ENODATA || errno == ENOTSUP)
            return -2;
        if (errno != ERANGE)
            return fl_error_os(err, errno, "getxattr", name, strlen(name));
    }
}

static bool starts(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* ---- marks ------------------------------------------------------------------------------ */

static bool valid_component(const uint8_t *s, size_t n)
{
    return n != 0 && !(s[0] == '.' && (n == 1 || (n == 2 && s[1] == '.'))) &&
           memchr(s, '\0', n) == NULL;
}

static bool valid_redirect(const uint8_t *s, size_t n)
{
    bool absolute = n > 0 && s[0] == '/';

    if (!absolute)
        return valid_component(s, n) && memchr(s, '/', n) == NULL;
    while (n > 0) {
        const uint8_t *next = memchr(s + 1, '/', n - 1);
        size_t len = next == NULL ? n : (size_t)(next - s);

        if (!valid_component(s + 1, len - 1))
            return false;
        s += len;
        n -= len;
    }
    return true;
}

static int read_redirect(struct fl_marks *m, int dir_fd, const char *name,
                         const char *attr, struct fl_error *err)
{
    m->redirect.len = 0;
    if (read_value(dir_fd, name, attr, &m->redirect, err) == -1)
        return -1;
    if (m->redirect.len != 0 && !valid_redirect(m->redirect.data, m->redirect.len))
        return fl_error_set(err, FL_ERR_UNSAFE, name, strlen(name),
                            "overlay.redirect names no place inside the layers: "
                            "do not use this upper directory");
    return 0;
}

static int read_opaque(struct fl_marks *m, int dir_fd, const char *name,
                       const char *attr, struct fl_error *err)
{
    char value[2];
    ssize_t n = fl_sys_getxattrat(dir_fd, name, attr, value, sizeof(value));

    if (n < 0 && errno != ENODATA && errno != ERANGE)
        return fl_error_os(err, errno, "getxattr", name, strlen(name));
    if (n == 1)
        m->opaque = value[0];
    return 0;
}

/* ---- what is visible -------------------------------------------------------------------- */

static bool travels(const struct fl_marks *m, const char *shown)
{
    if (m->policy == FL_XATTR_NONE)
        return false;
    if (m->policy == FL_XATTR_DOCKER)
        return strcmp(shown, "security.capability") == 0;
    return !starts(shown, "trusted.") && !fl_xattr_is_host_only(shown, strlen(shown));
}

/* Notes the attribute shown as space + rest. `kept` stays sorted; lists are short. */
static int keep(struct fl_marks *m, const char *attr, const char *space,
                const char *rest, struct fl_error *err)
{
    struct kept_name k = {.attr = attr}, *all;
    size_t n;

    snprintf(k.shown, sizeof(k.shown), "%s%s", space, rest);
    if (!travels(m, k.shown)) {
        m->dropped += !fl_xattr_is_host_only(attr, strlen(attr));
        return 0;
    }
    if (fl_buf_add(&m->kept, &k, sizeof(k), NULL, err) < 0)
        return -1;
    all = (struct kept_name *)(void *)m->kept.data;
    n = m->kept.len / sizeof(k) - 1;
    for (; n > 0 && strcmp(k.shown, all[n - 1].shown) < 0; n--)
        all[n] = all[n - 1];
    all[n] = k;
    return 0;
}

static int add_visible(struct fl_marks *m, int dir_fd, const char *name,
                       const struct kept_name *k, struct fl_error *err)
{
    size_t start = m->visible.len;
    uint16_t name_len = (uint16_t)strlen(k->shown);
    uint32_t value_len = 0;
    ssize_t n;

    if (fl_buf_add(&m->visible, &name_len, 2, NULL, err) < 0 ||
        fl_buf_add(&m->visible, &value_len, 4, NULL, err) < 0 ||
        fl_buf_add(&m->visible, k->shown, name_len, NULL, err) < 0)
        return -1;
    n = read_value(dir_fd, name, k->attr, &m->visible, err);
    if (n == -1)
        return -1;
    if (n == -2) {
        m->visible.len = start;
        return 0;
    }
    value_len = (uint32_t)n;
    memcpy(m->visible.data + start + 2, &value_len, 4);
    return 0;
}

/* ---- the read --------------------------------------------------------------------------- */

static int take_mark(struct fl_marks *m, int dir_fd, const char *name,
                     const char *attr, const char *mark, struct fl_error *err)
{
    m->whiteout |= strcmp(mark, "whiteout") == 0;
    m->metacopy |= strcmp(mark, "metacopy") == 0;
    if (strcmp(mark, "opaque") == 0)
        return read_opaque(m, dir_fd, name, attr, err);
    if (strcmp(mark, "redirect") == 0)
        return read_redirect(m, dir_fd, name, attr, err);
    return 0;
}

static int take_name(struct fl_marks *m, int dir_fd, const char *name, const char *attr,
                     bool want_visible, struct fl_error *err)
{
    static const char own[] = "overlay.";
    const char *space = m->userxattr ? "user." : "trusted.";
    const char *rest = attr + strlen(space);

    if (!starts(attr, space) || !starts(rest, own))
        return want_visible ? keep(m, attr, "", attr, err) : 0;
    rest += sizeof(own) - 1;
    if (!starts(rest, own))
        return take_mark(m, dir_fd, name, attr, rest, err);
    return want_visible ? keep(m, attr, space, rest, err) : 0;
}

int fl_marks_read(struct fl_marks *m, int dir_fd, const char *name,
                  bool want_visible, struct fl_error *err)
{
    const struct kept_name *kept;
    const char *attr, *end;

    m->whiteout = m->metacopy = false;
    m->opaque = '\0';
    m->redirect.len = m->visible.len = m->kept.len = 0;
    m->dropped = 0;
    if (list_names(m, dir_fd, name, err) < 0)
        return -1;
    end = (const char *)m->names.data + m->names.len;
    for (attr = (const char *)m->names.data; attr < end; attr += strlen(attr) + 1)
        if (take_name(m, dir_fd, name, attr, want_visible, err) < 0)
            return -1;
    kept = (const struct kept_name *)(void *)m->kept.data;
    for (size_t i = 0; i < m->kept.len / sizeof(*kept); i++)
        if (add_visible(m, dir_fd, name, &kept[i], err) < 0)
            return -1;
    return 0;
}
