/* Patterns of a .dockerignore, compiled: which paths of a tree are left out.
 *
 * The meaning is that of fastlayer/builder/dockerfile/ignore.py, which compiles them: what is left out takes everything
 * below it along, the last pattern that matches decides, a negated one takes back. Paths are compared by code points;
 * a byte that is no UTF-8 is the code point 0xDC00 + byte, as in Python.
 *
 * A program is u32 words in native order: the number of patterns; for each 1 if it is negated else 0, the number of
 * words of its tokens, and these. A token is op << 24 | argument, enum fl_ignore_op; a class is followed by its ranges
 * (first, last). Anything else is FL_ERR_USAGE. Matching takes time linear in the path for each token.
 *
 * The program is shared and read only; struct fl_ignore belongs to one thread and remembers the directories above the
 * latest path, so neighbours are cheap.
 */
#ifndef FL_IGNORE_H
#define FL_IGNORE_H

#include <stdbool.h>

#include "fl_buf.h"

enum fl_ignore_op {
    FL_IGNORE_CHAR = 0,  /* argument: the code point                            */
    FL_IGNORE_ONE = 1,   /* any but '/'                                         */
    FL_IGNORE_CLASS = 2, /* argument: number of ranges, FL_IGNORE_NEGATED: none of them */
    FL_IGNORE_STAR = 3,  /* any number of any but '/'                           */
    FL_IGNORE_DIRS = 4,  /* nothing, or anything and a '/'                      */
    FL_IGNORE_ALL = 5,   /* anything                                            */
};

#define FL_IGNORE_NEGATED (1u << 23)

enum fl_ignore_verdict {
    FL_IGNORE_KEEP = 0,
    FL_IGNORE_PASS = 1, /* left out, but something below the directory may not be */
    FL_IGNORE_OUT = 2,  /* with everything below                                */
};

struct fl_ignore_token {
    uint8_t op;
    bool negated;
    uint32_t value;         /* code point; of a class: number of ranges          */
    const uint32_t *ranges;
};

struct fl_ignore_pattern {
    bool negated;
    uint32_t first;         /* token                                             */
    uint32_t count;
    uint32_t prefix;        /* characters it begins and ends with                */
    uint32_t suffix;
    uint32_t shortest;      /* characters of the shortest path it matches        */
};

struct fl_ignore_program {
    uint32_t *words;
    struct fl_ignore_token *tokens;
    struct fl_ignore_pattern *patterns;
    uint32_t count;
    uint32_t longest;       /* tokens of a pattern                               */
};

/* data is copied. On failure nothing needs freeing. */
int fl_ignore_compile(struct fl_ignore_program *p, const void *data, size_t len, struct fl_error *err);
void fl_ignore_program_free(struct fl_ignore_program *p);

struct fl_ignore {
    const struct fl_ignore_program *program;
    struct fl_buf path;     /* of the directory that is known                    */
    struct fl_buf points;   /* u32: its code points, then those of what is asked */
    struct fl_buf frames;   /* its lengths, and those of the directories above   */
    struct fl_buf states;   /* a byte per pattern for each, and one row more     */
    struct fl_buf sets;     /* of states of a pattern's tokens                   */
};

/* Zero-initialise, set program. */
void fl_ignore_free(struct fl_ignore *g);

/* enum fl_ignore_verdict of `name` in the directory `dir` (a path; "" is the root), or -1. Any order of paths. */
int fl_ignore_look(struct fl_ignore *g, const uint8_t *dir, size_t dir_len, const char *name, size_t name_len,
                   bool is_dir, struct fl_error *err);

/* The same of a whole path; the root is kept. */
int fl_ignore_look_path(struct fl_ignore *g, const uint8_t *path, size_t len, bool is_dir, struct fl_error *err);

#endif
