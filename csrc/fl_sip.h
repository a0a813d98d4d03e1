/* SipHash-1-3, for tables whose keys an attacker chooses: under a random secret
 * they neither collide nor cluster. Header only, so that it is inlined.
 */
#ifndef FL_SIP_H
#define FL_SIP_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct fl_sip {
    uint64_t v0, v1, v2, v3;
};

static inline uint64_t fl_sip_rotate(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static inline void fl_sip_round(struct fl_sip *s)
{
    s->v0 += s->v1;
    s->v1 = fl_sip_rotate(s->v1, 13) ^ s->v0;
    s->v0 = fl_sip_rotate(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = fl_sip_rotate(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = fl_sip_rotate(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = fl_sip_rotate(s->v1, 17) ^ s->v2;
    s->v2 = fl_sip_rotate(s->v2, 32);
}

static inline void fl_sip_word(struct fl_sip *s, uint64_t word)
{
    s->v3 ^= word;
    fl_sip_round(s);
    s->v0 ^= word;
}

static inline uint64_t fl_sip_finish(struct fl_sip *s)
{
    fl_sip_round(s);
    fl_sip_round(s);
    fl_sip_round(s);
    return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

/* `extra` is 0xee for 128 bits of output, 0 for 64. */
static inline struct fl_sip fl_sip_start(const uint64_t secret[2], uint64_t extra)
{
    return (struct fl_sip){
        secret[0] ^ 0x736f6d6570736575u, secret[1] ^ 0x646f72616e646f6du ^ extra,
        secret[0] ^ 0x6c7967656e657261u, secret[1] ^ 0x7465646279746573u,
    };
}

/* A name in directory `dir`: directory and length are the first word. */
static inline void fl_sip_name(struct fl_sip *s, uint32_t dir, const void *name, size_t len)
{
    const char *p = name;
    uint64_t word;

    fl_sip_word(s, (uint64_t)dir << 32 | (uint32_t)len);
    for (; len >= 8; p += 8, len -= 8) {
        memcpy(&word, p, 8);
        fl_sip_word(s, word);
    }
    word = 0;
    memcpy(&word, p, len);
    fl_sip_word(s, word);
}

#endif
