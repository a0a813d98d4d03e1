/* Names from an archive, made canonical and classified.
 *
 * "a", "./a", "/a", "a//" are one name. Names are bytes. Refused
 * (FL_ERR_UNSAFE): an empty name, "..", a component longer than 255 bytes, a
 * NUL byte, ".wh." with nothing, "." or ".." behind it.
 *
 * The name alone decides what is a whiteout. FL_NAME_IGNORED are entries
 * without any effect: aufs' own (".wh..wh.plnk", ...) and whatever lies below
 * a ".wh." component.
 *
 * Zero-initialise, fl_name_free. A parsed name is valid until the next parse.
 */
#ifndef FL_NAME_H
#define FL_NAME_H

#include "fl_buf.h"

#define FL_NAME_COMPONENT_MAX 255u

enum fl_name_kind {
    FL_NAME_PLAIN = 1,
    FL_NAME_ROOT = 2,     /* no base, no directory                              */
    FL_NAME_WHITEOUT = 3, /* base is what is hidden                             */
    FL_NAME_OPAQUE = 4,   /* the directory is what becomes opaque               */
    FL_NAME_IGNORED = 5,
};

struct fl_name {
    int kind;           /* enum fl_name_kind                                    */
    struct fl_buf text; /* components joined by '/', NUL-terminated             */
    size_t dir_len;     /* of text: the directory, without its last slash       */
    const char *base;   /* in text: last component; of a whiteout without ".wh." */
    uint32_t base_len;
};

void fl_name_free(struct fl_name *n);

/* raw may not overlap n. */
int fl_name_parse(struct fl_name *n, const uint8_t *raw, size_t len,
                  struct fl_error *err);

/* For what makes layers: a component ".wh.*" would be read as a whiteout, so a layer cannot
 * carry one (FL_ERR_UNSAFE). */
int fl_name_refuse_markers(const uint8_t *path, size_t len, struct fl_error *err);

#endif
