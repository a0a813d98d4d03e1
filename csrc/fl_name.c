#include "fl_name.h"

#include <stdbool.h>

#define WHITEOUT ".wh."
#define WHITEOUT_LEN 4u
#define OPAQUE ".wh..wh..opq"
#define OWN ".wh..wh."

void fl_name_free(struct fl_name *n)
{
    fl_buf_free(&n->text);
}

static bool starts_with(const uint8_t *s, size_t len, const char *prefix)
{
    size_t n = strlen(prefix);

    return len >= n && memcmp(s, prefix, n) == 0;
}

static bool is_dots(const char *s, size_t len)
{
    return len == 0 || (len == 1 && s[0] == '.') || (len == 2 && s[0] == '.' && s[1] == '.');
}

static int refuse(struct fl_error *err, const uint8_t *raw, size_t len, const char *why)
{
    return fl_error_set(err, FL_ERR_UNSAFE, raw, len, "%s", why);
}

/* Why a component cannot be, or NULL. Only a marker may be longer than a file name: by its prefix. */
static const char *component_fault(const uint8_t *s, size_t len)
{
    size_t extra = starts_with(s, len, WHITEOUT) ? WHITEOUT_LEN : 0;

    if (len == 2 && s[0] == '.' && s[1] == '.')
        return "'..' in a name";
    if (len - extra > FL_NAME_COMPONENT_MAX)
        return "a component of the name is longer than 255 bytes";
    return NULL;
}

static void add_component(struct fl_buf *text, const uint8_t *s, size_t len)
{
    if (text->len != 0)
        text->data[text->len++] = '/';
    memcpy(text->data + text->len, s, len);
    text->len += len;
}

static int classify(struct fl_name *n, bool below_marker)
{
    const uint8_t *base = (const uint8_t *)n->base;

    if (n->text.len == 0)
        return FL_NAME_ROOT;
    if (below_marker)
        return FL_NAME_IGNORED;
    if (!starts_with(base, n->base_len, WHITEOUT))
        return FL_NAME_PLAIN;
    if (strcmp(n->base, OPAQUE) == 0)
        return FL_NAME_OPAQUE;
    return starts_with(base, n->base_len, OWN) ? FL_NAME_IGNORED : FL_NAME_WHITEOUT;
}

int fl_name_parse(struct fl_name *n, const uint8_t *raw, size_t len, struct fl_error *err)
{
    const uint8_t *end = raw + len, *s = raw, *slash;
    size_t base_off = 0;
    bool marker = false, below_marker = false;

    n->text.len = 0;
    if (len == 0)
        return refuse(err, raw, len, "an entry without a name");
    if (memchr(raw, '\0', len) != NULL)
        return refuse(err, raw, len, "a NUL byte in a name");
    if (fl_buf_reserve(&n->text, len + 1, err) < 0)
        return -1;
    n->dir_len = 0;
    for (; s < end; s = slash + 1) {
        const char *fault;

        slash = memchr(s, '/', (size_t)(end - s));
        if (slash == NULL)
            slash = end;
        if (slash == s || (slash == s + 1 && *s == '.'))
            continue;
        fault = component_fault(s, (size_t)(slash - s));
        if (fault != NULL)
            return refuse(err, raw, len, fault);
        below_marker |= marker;
        marker = starts_with(s, (size_t)(slash - s), WHITEOUT);
        n->dir_len = n->text.len;
        base_off = n->text.len + (n->text.len != 0);
        add_component(&n->text, s, (size_t)(slash - s));
    }
    n->text.data[n->text.len] = '\0';
    n->base = (const char *)n->text.data + base_off;
    n->base_len = (uint32_t)(n->text.len - base_off);
    n->kind = classify(n, below_marker);
    if (n->kind == FL_NAME_WHITEOUT) {
        n->base += WHITEOUT_LEN;
        n->base_len -= WHITEOUT_LEN;
        if (is_dots(n->base, n->base_len))
            return refuse(err, raw, len, "a whiteout without a name");
    }
    return 0;
}

int fl_name_refuse_markers(const uint8_t *path, size_t len, struct fl_error *err)
{
    if (!(len >= 4 && memcmp(path, ".wh.", 4) == 0) && memmem(path, len, "/.wh.", 5) == NULL)
        return 0;
    return fl_error_set(err, FL_ERR_UNSAFE, path, len, "a name with .wh. means a deletion inside a layer: rename it");
}
