#include "fl_ignore.h"

#define POINT_MAX 0x10ffffu
#define SLASH ((uint32_t)'/')
#define BITS 64u

/* ---- the program ------------------------------------------------------ */

void fl_ignore_program_free(struct fl_ignore_program *p)
{
    free(p->words);
    free(p->tokens);
    free(p->patterns);
    memset(p, 0, sizeof(*p));
}

static int refuse(struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "not a program of patterns");
}

/* The token at *at, whose words end at `end`. */
static int read_token(const struct fl_ignore_program *p, uint32_t *at, uint32_t end, struct fl_ignore_token *ret,
                      struct fl_error *err)
{
    uint32_t word = p->words[(*at)++], argument = word & 0xffffffu;

    *ret = (struct fl_ignore_token){.op = (uint8_t)(word >> 24), .value = argument};
    if (ret->op > FL_IGNORE_ALL || (ret->op == FL_IGNORE_CHAR && argument > POINT_MAX))
        return refuse(err);
    if (ret->op != FL_IGNORE_CLASS)
        return 0;
    ret->negated = (argument & FL_IGNORE_NEGATED) != 0;
    ret->value = argument & ~FL_IGNORE_NEGATED;
    ret->ranges = p->words + *at;
    if (ret->value > (end - *at) / 2)
        return refuse(err);
    *at += 2 * ret->value;
    return 0;
}

static bool is_one(const struct fl_ignore_token *t)
{
    return t->op <= FL_IGNORE_CLASS;
}

static void measure(const struct fl_ignore_program *p, struct fl_ignore_pattern *pattern)
{
    const struct fl_ignore_token *t = p->tokens + pattern->first;

    while (pattern->prefix < pattern->count && t[pattern->prefix].op == FL_IGNORE_CHAR)
        pattern->prefix++;
    while (pattern->suffix < pattern->count - pattern->prefix &&
           t[pattern->count - 1 - pattern->suffix].op == FL_IGNORE_CHAR)
        pattern->suffix++;
    for (uint32_t i = 0; i < pattern->count; i++)
        pattern->shortest += is_one(&t[i]);
}

static int read_pattern(struct fl_ignore_program *p, uint32_t words, uint32_t *at, uint32_t *tokens,
                        struct fl_ignore_pattern *ret, struct fl_error *err)
{
    uint32_t end;

    if (words - *at < 2 || p->words[*at] > 1 || p->words[*at + 1] > words - *at - 2)
        return refuse(err);
    *ret = (struct fl_ignore_pattern){.negated = p->words[*at] != 0, .first = *tokens};
    end = *at + 2 + p->words[*at + 1];
    *at += 2;
    while (*at < end)
        if (read_token(p, at, end, &p->tokens[(*tokens)++], err) < 0)
            return -1;
    ret->count = *tokens - ret->first;
    measure(p, ret);
    if (ret->count > p->longest)
        p->longest = ret->count;
    return 0;
}

static int read_all(struct fl_ignore_program *p, uint32_t words, struct fl_error *err)
{
    uint32_t at = 1, tokens = 0;

    for (uint32_t i = 0; i < p->count; i++)
        if (read_pattern(p, words, &at, &tokens, &p->patterns[i], err) < 0)
            return -1;
    return at == words ? 0 : refuse(err);
}

int fl_ignore_compile(struct fl_ignore_program *p, const void *data, size_t len, struct fl_error *err)
{
    size_t words = len / sizeof(uint32_t);
    int r = -1;

    memset(p, 0, sizeof(*p));
    if (len % sizeof(uint32_t) != 0 || words == 0 || words > UINT32_MAX / 2)
        return refuse(err);
    p->words = malloc(len);
    p->tokens = calloc(words, sizeof(*p->tokens)); /* a token is a word at least, */
    p->patterns = calloc(words, sizeof(*p->patterns)); /* and a pattern two */
    if (p->words == NULL || p->tokens == NULL || p->patterns == NULL) {
        fl_error_memory(err);
    } else {
        memcpy(p->words, data, len);
        p->count = p->words[0];
        r = p->count < words ? read_all(p, (uint32_t)words, err) : refuse(err);
    }
    if (r < 0)
        fl_ignore_program_free(p);
    return r;
}

/* ---- code points ------------------------------------------------------ */

static bool is_continuation(const uint8_t *p, size_t left, size_t n)
{
    for (size_t i = 1; i <= n; i++)
        if (i >= left || (p[i] & 0xc0) != 0x80)
            return false;
    return true;
}

/* One code point at p; returns the bytes it takes. What is no UTF-8 goes byte by byte. */
static size_t decode_one(const uint8_t *p, size_t left, uint32_t *ret)
{
    uint32_t c = p[0];

    if (c >= 0xc2 && c <= 0xdf && is_continuation(p, left, 1)) {
        *ret = (c & 0x1f) << 6 | (p[1] & 0x3fu);
        return 2;
    }
    if (c >= 0xe0 && c <= 0xef && is_continuation(p, left, 2)) {
        *ret = (c & 0xf) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
        if (*ret >= 0x800 && (*ret < 0xd800 || *ret > 0xdfff))
            return 3;
    } else if (c >= 0xf0 && c <= 0xf4 && is_continuation(p, left, 3)) {
        *ret = (c & 7) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
        if (*ret >= 0x10000 && *ret <= POINT_MAX)
            return 4;
    }
    *ret = c < 0x80 ? c : 0xdc00u + c;
    return 1;
}

static int add_points(struct fl_buf *points, const uint8_t *text, size_t len, struct fl_error *err)
{
    uint32_t *out;
    size_t n = 0;

    if (fl_buf_reserve(points, len * sizeof(uint32_t), err) < 0)
        return -1;
    out = (uint32_t *)(void *)(points->data + points->len);
    for (size_t at = 0; at < len; n++)
        at += decode_one(text + at, len - at, &out[n]);
    points->len += n * sizeof(uint32_t);
    return 0;
}

/* ---- one pattern ------------------------------------------------------ */

struct text {
    const uint32_t *points;
    size_t len;
};

static bool matches_one(const struct fl_ignore_token *t, uint32_t c)
{
    if (t->op != FL_IGNORE_CLASS)
        return t->op == FL_IGNORE_CHAR ? c == t->value : c != SLASH;
    for (uint32_t i = 0; i < t->value; i++)
        if (t->ranges[2 * i] <= c && c <= t->ranges[2 * i + 1])
            return !t->negated;
    return t->negated;
}

/* Sets of tokens: before which the match may be (`at`), and of DIRS tokens that it is within. */
struct sets {
    uint64_t *at, *within, *next_at, *next_within;
    size_t words;
};

static void set_bit(uint64_t *set, uint32_t i)
{
    set[i / BITS] |= UINT64_C(1) << (i % BITS);
}

static bool has_bit(const uint64_t *set, uint32_t i)
{
    return (set[i / BITS] >> (i % BITS)) & 1;
}

/* Adds what is behind tokens that may match nothing. */
static void close_over(const struct fl_ignore_token *t, uint32_t count, uint64_t *set, size_t words)
{
    for (size_t w = 0; w < words; w++)
        for (uint64_t left = set[w]; left != 0; left &= left - 1) {
            uint32_t i = (uint32_t)(w * BITS) + (uint32_t)__builtin_ctzll(left);

            for (; i < count && !is_one(&t[i]) && !has_bit(set, i + 1); i++) {
                set_bit(set, i + 1);
                if ((i + 1) / BITS == w)
                    left |= UINT64_C(1) << ((i + 1) % BITS);
            }
        }
}

static void move(const struct fl_ignore_token *t, uint32_t i, uint32_t c, struct sets *s)
{
    if (is_one(t)) {
        if (matches_one(t, c))
            set_bit(s->next_at, i + 1);
    } else if (t->op == FL_IGNORE_ALL || (t->op == FL_IGNORE_STAR && c != SLASH)) {
        set_bit(s->next_at, i);
    } else if (t->op == FL_IGNORE_DIRS) {
        set_bit(s->next_within, i);
        if (c == SLASH)
            set_bit(s->next_at, i + 1);
    }
}

/* Takes one character; false when nothing can match any more. */
static bool step(const struct fl_ignore_token *t, uint32_t count, uint32_t c, struct sets *s)
{
    uint64_t *at = s->at, *within = s->within, any = 0;

    memset(s->next_at, 0, s->words * sizeof(uint64_t));
    memset(s->next_within, 0, s->words * sizeof(uint64_t));
    for (size_t w = 0; w < s->words; w++)
        for (uint64_t left = at[w] | within[w]; left != 0; left &= left - 1) {
            uint32_t i = (uint32_t)(w * BITS) + (uint32_t)__builtin_ctzll(left);

            if (i < count)
                move(&t[i], i, c, s);
        }
    close_over(t, count, s->next_at, s->words);
    for (size_t w = 0; w < s->words; w++)
        any |= s->next_at[w] | s->next_within[w];
    s->at = s->next_at;
    s->within = s->next_within;
    s->next_at = at;
    s->next_within = within;
    return any != 0;
}

/* The four sets, with the match before token `first`. */
static int start_sets(struct fl_ignore *g, const struct fl_ignore_pattern *p, uint32_t first, struct sets *ret,
                      struct fl_error *err)
{
    size_t words = p->count / BITS + 1;
    uint64_t *memory;

    g->sets.len = 0;
    if (fl_buf_reserve(&g->sets, 4 * words * sizeof(uint64_t), err) < 0)
        return -1;
    memory = (uint64_t *)(void *)g->sets.data;
    memset(memory, 0, 4 * words * sizeof(uint64_t));
    *ret = (struct sets){memory, memory + words, memory + 2 * words, memory + 3 * words, words};
    set_bit(ret->at, first);
    close_over(g->program->tokens + p->first, p->count, ret->at, words);
    return 0;
}

static bool ends_match(const struct fl_ignore_token *t, const struct fl_ignore_pattern *p, struct text path)
{
    if (path.len < p->shortest || (p->prefix == p->count && path.len != p->count))
        return false;
    for (uint32_t i = 0; i < p->suffix; i++)
        if (path.points[path.len - 1 - i] != t[p->count - 1 - i].value)
            return false;
    for (uint32_t i = 0; i < p->prefix; i++)
        if (path.points[i] != t[i].value)
            return false;
    return true;
}

static bool has_slash(const uint32_t *points, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (points[i] == SLASH)
            return true;
    return false;
}

/* What lies between beginning and end, when that is one token. */
static bool matches_between(const struct fl_ignore_token *t, const struct fl_ignore_pattern *p, struct text path)
{
    const uint32_t *middle = path.points + p->prefix;
    size_t len = path.len - p->prefix - p->suffix;

    switch (t->op) {
    case FL_IGNORE_ALL:
        return true;
    case FL_IGNORE_STAR:
        return !has_slash(middle, len);
    case FL_IGNORE_DIRS:
        return len == 0 || middle[len - 1] == SLASH;
    default:
        return len == 1 && matches_one(t, middle[0]);
    }
}

/* 1, 0, -1. */
static int matches(struct fl_ignore *g, const struct fl_ignore_pattern *p, struct text path, struct fl_error *err)
{
    const struct fl_ignore_token *t = g->program->tokens + p->first;
    struct sets s;

    if (!ends_match(t, p, path))
        return 0;
    if (p->prefix == p->count)
        return 1;
    if (p->prefix + p->suffix + 1 == p->count)
        return matches_between(t + p->prefix, p, path);
    if (start_sets(g, p, p->prefix, &s, err) < 0)
        return -1;
    for (size_t i = p->prefix; i < path.len; i++)
        if (!step(t, p->count, path.points[i], &s))
            return 0;
    return has_bit(s.at, p->count);
}

/* Can it match anything that begins with the path and a slash? 1, 0, -1. */
static int may_match_below(struct fl_ignore *g, const struct fl_ignore_pattern *p, struct text path,
                           struct fl_error *err)
{
    const struct fl_ignore_token *t = g->program->tokens + p->first;
    struct sets s;

    if (start_sets(g, p, 0, &s, err) < 0)
        return -1;
    for (size_t i = 0; i < path.len; i++)
        if (!step(t, p->count, path.points[i], &s))
            return 0;
    if (!step(t, p->count, SLASH, &s))
        return 0;
    for (uint32_t i = 0; i < p->count; i++)
        if (has_bit(s.at, i) || has_bit(s.within, i))
            return 1;
    return 0;
}

/* ---- all patterns ----------------------------------------------------- */

struct frame {
    size_t path_len;
    size_t points_len; /* bytes */
};

void fl_ignore_free(struct fl_ignore *g)
{
    fl_buf_free(&g->path);
    fl_buf_free(&g->points);
    fl_buf_free(&g->frames);
    fl_buf_free(&g->states);
    fl_buf_free(&g->sets);
}

static size_t depth(const struct fl_ignore *g)
{
    return g->frames.len / sizeof(struct frame);
}

static struct frame top(const struct fl_ignore *g)
{
    struct frame f = {0, 0};

    if (g->frames.len != 0)
        memcpy(&f, g->frames.data + g->frames.len - sizeof(f), sizeof(f));
    return f;
}

/* Row 0 is the root's, all zero. */
static uint8_t *states_of(const struct fl_ignore *g, size_t level)
{
    return g->states.data + level * g->program->count;
}

static int grow_states(struct fl_ignore *g, struct fl_error *err)
{
    size_t need = (depth(g) + 2) * (size_t)g->program->count + 1;

    if (need > g->states.len) {
        if (fl_buf_reserve(&g->states, need - g->states.len, err) < 0)
            return -1;
        memset(g->states.data + g->states.len, 0, need - g->states.len);
        g->states.len = need;
    }
    return 0;
}

/* Fills the row behind the known directory's with what matches `name` in it, whose points are added. 1 = left out. */
static int judge(struct fl_ignore *g, const uint8_t *name, size_t len, struct fl_error *err)
{
    const uint8_t *above;
    uint8_t *state;
    bool out = false;
    struct text path;

    g->points.len = top(g).points_len;
    if (grow_states(g, err) < 0 || (g->points.len != 0 && add_points(&g->points, (const uint8_t *)"/", 1, err) < 0) ||
        add_points(&g->points, name, len, err) < 0)
        return -1;
    above = states_of(g, depth(g));
    state = states_of(g, depth(g) + 1);
    path = (struct text){(const uint32_t *)(void *)g->points.data, g->points.len / sizeof(uint32_t)};
    for (uint32_t i = 0; i < g->program->count; i++) {
        const struct fl_ignore_pattern *p = &g->program->patterns[i];
        int matched = above[i] ? 1 : p->negated == out ? matches(g, p, path, err) : 0;

        if (matched < 0)
            return -1;
        state[i] = (uint8_t)matched;
        if (matched)
            out = !p->negated;
    }
    return out;
}

/* Of what was just judged to be left out: only a pattern behind the last one that left it out can take back. */
static int may_take_back(struct fl_ignore *g, struct fl_error *err)
{
    const uint8_t *state = states_of(g, depth(g) + 1);
    struct text path = {(const uint32_t *)(void *)g->points.data, g->points.len / sizeof(uint32_t)};

    for (uint32_t i = g->program->count; i-- > 0;) {
        const struct fl_ignore_pattern *p = &g->program->patterns[i];
        int r;

        if (!p->negated && state[i])
            return 0;
        if (p->negated && (r = may_match_below(g, p, path, err)) != 0)
            return r;
    }
    return 0;
}

static bool is_in(const struct fl_ignore *g, size_t len, const uint8_t *dir, size_t dir_len)
{
    return len <= dir_len && memcmp(g->path.data, dir, len) == 0 && (len == dir_len || dir[len] == '/');
}

static int enter(struct fl_ignore *g, const uint8_t *name, size_t len, struct fl_error *err)
{
    struct frame f;

    if (judge(g, name, len, err) < 0)
        return -1;
    if ((g->frames.len != 0 && fl_buf_add(&g->path, "/", 1, NULL, err) < 0) ||
        fl_buf_add(&g->path, name, len, NULL, err) < 0)
        return -1;
    f = (struct frame){g->path.len, g->points.len};
    return fl_buf_add(&g->frames, &f, sizeof(f), NULL, err);
}

/* Makes `dir` the known directory. */
static int go_to(struct fl_ignore *g, const uint8_t *dir, size_t len, struct fl_error *err)
{
    while (g->frames.len != 0 && !is_in(g, top(g).path_len, dir, len))
        g->frames.len -= sizeof(struct frame);
    g->path.len = top(g).path_len;
    while (g->path.len < len) {
        size_t from = g->path.len == 0 ? 0 : g->path.len + 1;
        const uint8_t *slash = memchr(dir + from, '/', len - from);
        size_t end = slash == NULL ? len : (size_t)(slash - dir);

        if (enter(g, dir + from, end - from, err) < 0)
            return -1;
    }
    return 0;
}

int fl_ignore_look(struct fl_ignore *g, const uint8_t *dir, size_t dir_len, const char *name, size_t name_len,
                   bool is_dir, struct fl_error *err)
{
    int out, back;

    if (go_to(g, dir, dir_len, err) < 0)
        return -1;
    out = judge(g, (const uint8_t *)name, name_len, err);
    if (out <= 0)
        return out < 0 ? -1 : FL_IGNORE_KEEP;
    if (!is_dir)
        return FL_IGNORE_OUT;
    back = may_take_back(g, err);
    return back < 0 ? -1 : back ? FL_IGNORE_PASS : FL_IGNORE_OUT;
}

int fl_ignore_look_path(struct fl_ignore *g, const uint8_t *path, size_t len, bool is_dir, struct fl_error *err)
{
    const uint8_t *slash = len ? memrchr(path, '/', len) : NULL;
    size_t dir = slash == NULL ? 0 : (size_t)(slash - path);
    size_t skip = slash == NULL ? 0 : dir + 1;

    if (len == 0)
        return FL_IGNORE_KEEP;
    return fl_ignore_look(g, path, dir, (const char *)path + skip, len - skip, is_dir, err);
}
