/* The inodes of a merged tree and the table of their names. */
#include "fl_map.h"
#include "fl_merge_private.h"
#include "fl_sip.h"

#define FIRST_SLOTS 256u
#define MAX_NAMES (1u << 31)

static int too_many(struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_LIMIT, NULL, 0, "a tree of more than 2^31 names");
}

int fl_merge_new_node(struct fl_merge *m, uint32_t mode, uint32_t *ret, struct fl_error *err)
{
    struct fl_merge_node n = {.parts = FL_MERGE_NO_PARTS, .mode = mode};
    size_t count = m->nodes.len / sizeof(n);

    if (count >= MAX_NAMES)
        return too_many(err);
    if (S_ISDIR(mode)) {
        n.of.dir.first = FL_MERGE_NONE;
        n.of.dir.clean = FL_MERGE_NONE;
    }
    *ret = (uint32_t)count;
    return fl_map_add(&m->nodes, &n, sizeof(n), err);
}

static uint64_t hash(const struct fl_merge *m, uint32_t parent, const void *s, size_t len)
{
    struct fl_sip sip = fl_sip_start(m->secret, 0);

    fl_sip_name(&sip, parent, s, len);
    sip.v2 ^= 0xff;
    return fl_sip_finish(&sip);
}

static bool is_name(const struct fl_merge *m, uint32_t i, uint32_t parent, const void *s, size_t len)
{
    const struct fl_merge_name *n = fl_merge_name_at(m, i);
    const uint8_t *have = m->bytes.data + n->off;

    return n->parent == parent && have[0] == len && memcmp(have + 1, s, len) == 0;
}

/* The slot of this name, or the free one where it belongs. */
static uint32_t *probe(const struct fl_merge *m, uint32_t parent, const void *s, size_t len)
{
    uint32_t at = (uint32_t)hash(m, parent, s, len) & m->mask;

    while (m->slots[at] != 0 && !is_name(m, m->slots[at] - 1, parent, s, len))
        at = (at + 1) & m->mask;
    return &m->slots[at];
}

/* Also of a name that was removed. */
static uint32_t find_any(const struct fl_merge *m, uint32_t parent, const void *s, size_t len)
{
    if (m->slots == NULL || len > FL_NAME_COMPONENT_MAX)
        return FL_MERGE_NONE;
    return *probe(m, parent, s, len) - 1; /* 0 - 1 is FL_MERGE_NONE */
}

uint32_t fl_merge_find(const struct fl_merge *m, uint32_t parent, const void *s, size_t len)
{
    uint32_t i = find_any(m, parent, s, len);

    return i != FL_MERGE_NONE && fl_merge_name_at(m, i)->node == FL_MERGE_NONE ? FL_MERGE_NONE : i;
}

static int grow(struct fl_merge *m, struct fl_error *err)
{
    uint32_t count = (uint32_t)(m->names.len / sizeof(struct fl_merge_name));
    uint64_t cap = m->slots == NULL ? FIRST_SLOTS : ((uint64_t)m->mask + 1) * 2;

    if (m->slots != NULL && (uint64_t)count * 4 < ((uint64_t)m->mask + 1) * 3)
        return 0;
    fl_map_free(&m->table);
    m->slots = NULL;
    if (fl_map_reserve(&m->table, cap * sizeof(*m->slots), err) < 0)
        return -1;
    m->slots = (uint32_t *)(void *)m->table.data;
    m->mask = (uint32_t)(cap - 1);
    for (uint32_t i = 0; i < count; i++) {
        const struct fl_merge_name *n = fl_merge_name_at(m, i);
        const uint8_t *s = m->bytes.data + n->off;

        *probe(m, n->parent, s + 1, s[0]) = i + 1;
    }
    return 0;
}

static int add_name(struct fl_merge *m, uint32_t parent, const void *s, size_t len, uint32_t *ret, struct fl_error *err)
{
    struct fl_merge_name n = {.parent = parent, .node = FL_MERGE_NONE, .off = (uint32_t)m->bytes.len};
    size_t count = m->names.len / sizeof(n);
    uint8_t length = (uint8_t)len;

    if (len > FL_NAME_COMPONENT_MAX)
        return fl_error_set(err, FL_ERR_UNSAFE, s, len, "a component of the name is longer than 255 bytes");
    if (count >= MAX_NAMES || m->bytes.len > UINT32_MAX - 256)
        return too_many(err);
    if (grow(m, err) < 0 || fl_map_add(&m->bytes, &length, 1, err) < 0 ||
        fl_map_add(&m->bytes, s, len, err) < 0)
        return -1;
    n.next = fl_merge_node_at(m, parent)->of.dir.first;
    if (fl_map_add(&m->names, &n, sizeof(n), err) < 0)
        return -1;
    *probe(m, parent, s, len) = (uint32_t)count + 1;
    fl_merge_node_at(m, parent)->of.dir.first = (uint32_t)count;
    *ret = (uint32_t)count;
    return 0;
}

/* The name stands for this inode now, whatever it was. */
int fl_merge_link(struct fl_merge *m, uint32_t parent, const void *s, size_t len, uint32_t node, struct fl_error *err)
{
    uint32_t i = find_any(m, parent, s, len);
    struct fl_merge_name *n;

    if (i == FL_MERGE_NONE && add_name(m, parent, s, len, &i, err) < 0)
        return -1;
    n = fl_merge_name_at(m, i);
    if (n->node == FL_MERGE_NONE)
        fl_merge_node_at(m, parent)->size++;
    n->node = node;
    n->layer = m->layer;
    return 0;
}

void fl_merge_unlink(struct fl_merge *m, uint32_t name)
{
    struct fl_merge_name *n = fl_merge_name_at(m, name);

    n->node = FL_MERGE_NONE;
    fl_merge_node_at(m, n->parent)->size--;
}
