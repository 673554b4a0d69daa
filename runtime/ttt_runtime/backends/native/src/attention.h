/* Attention over the cache, in float32.
 *
 * Keys lie in groups of LANES cache rows, [kv heads, rows / LANES, head size, LANES], so that the
 * scores of one query and a group are sums down a column; values lie row by row, [kv heads, rows,
 * head size].
 */
#ifndef TTT_ATTENTION_H
#define TTT_ATTENTION_H

#include <math.h>

#include "product.h"

/* Query rows that share the keys and values read: with two sums each, what the registers hold. */
#if LANES == 16
#define SEEN_ROWS 8
#define EACH_SEEN(M) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8)
#else
#define SEEN_ROWS 6
#define EACH_SEEN(M) M(1) M(2) M(3) M(4) M(5) M(6)
#endif
#define SCORED (2 * LANES) /* cache rows scored at once */

typedef struct {
    int64_t heads, kv_heads, head_dim;
    int64_t capacity;      /* rows of the cache, a multiple of SCORED */
    int64_t rows, start;   /* the query rows' first cache row */
    const uint8_t *mask;   /* [rows, mask_stride], a multiple of SCORED; 0 behind the context */
    int64_t mask_stride;
    const float *cos, *sin; /* [positions, head size / 2] */
    const int64_t *positions; /* [rows], or NULL: start, start + 1, ... */
    const float *qkv;       /* [rows, (heads + 2 kv_heads) x head size] */
    float *keys, *values;   /* of this layer */
    float *mixed;           /* [rows, heads x head size] */
    const ttt_matrix *next; /* of a single row: what is multiplied next, or NULL */
} attention;

/* Turn x [size] by its position: pairs are half a head apart. */
static void rotate(const float *x, const float *cos, const float *sin, int64_t size, float *out)
{
    int64_t half = size / 2;
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        out[i] = a * cos[i] - b * sin[i];
        out[i + half] = b * cos[i] + a * sin[i];
    }
}

/* Turn x [size] as query row `row` stands. */
static void rotate_row(const attention *at, int64_t row, const float *x, float *out)
{
    int64_t position = at->positions != NULL ? at->positions[row] : at->start + row;
    int64_t angles = position * (at->head_dim / 2);
    rotate(x, at->cos + angles, at->sin + angles, at->head_dim, out);
}

/* Write one thread's share of the new rows' keys and values. */
static void write_cache_part(const attention *at, int member, int members, float *room)
{
    int64_t size = at->head_dim, width = (at->heads + 2 * at->kv_heads) * size;
    int64_t items = at->rows * at->kv_heads;
    for (int64_t i = items * member / members; i < items * (member + 1) / members; i++) {
        int64_t head = i / at->rows, row = i % at->rows, place = at->start + row;
        const float *key = at->qkv + row * width + (at->heads + head) * size;
        rotate_row(at, row, key, room);
        float *to = at->keys + head * at->capacity * size + place / LANES * LANES * size;
        for (int64_t d = 0; d < size; d++)
            to[d * LANES + place % LANES] = room[d];
        memcpy(at->values + (head * at->capacity + place) * size, key + at->kv_heads * size,
               size * sizeof(float));
    }
}

/* Up to SEEN_ROWS (query row, head) pairs of one kv head. */
typedef struct {
    const attention *of;
    const float *keys, *values; /* of the kv head */
    const uint8_t *mask[SEEN_ROWS];
    float *out[SEEN_ROWS];
    const float *q; /* [rows, head size], rotated */
    float *scores;  /* [rows, stride] */
    int64_t stride; /* the context, filled up to SCORED */
    float largest[SEEN_ROWS], factor[SEEN_ROWS];
    const char *ahead; /* what the memory may bring meanwhile: see `look_ahead` */
    int64_t ahead_step;
} seen;

#define BEGIN_SCORE(i) vf near##i = vf_zero(), far##i = vf_zero();
#define ADD_SCORE(i)                                                                              \
    {                                                                                             \
        vf value = vf_set(q[i * size]);                                                           \
        near##i = vf_fma(value, first, near##i);                                                  \
        far##i = vf_fma(value, second, far##i);                                                   \
    }
#define END_SCORE(i)                                                                              \
    {                                                                                             \
        float *to = at->scores + i * at->stride + j;                                              \
        near##i = vf_where(at->mask[i] + j, near##i, vf_set(-INFINITY));                          \
        far##i = vf_where(at->mask[i] + j + LANES, far##i, vf_set(-INFINITY));                    \
        vf_store(to, near##i);                                                                    \
        vf_store(to + LANES, far##i);                                                             \
        peak##i = vf_max(peak##i, vf_max(near##i, far##i));                                       \
    }
#define BEGIN_PEAK(i) vf peak##i = vf_set(-INFINITY);
#define END_PEAK(i) at->largest[i] = vf_largest(peak##i);
/* scores = q @ keys, and each row's largest */
#define SCORE(R)                                                                                  \
    static void score_##R(seen *at)                                                               \
    {                                                                                             \
        int64_t size = at->of->head_dim, step = at->ahead_step;                                   \
        const char *ahead = at->ahead;                                                            \
        EACH_##R(BEGIN_PEAK)                                                                      \
        for (int64_t j = 0; j < at->stride; j += SCORED) {                                        \
            const float *group = at->keys + j * size, *next = group + LANES * size;               \
            EACH_##R(BEGIN_SCORE)                                                                 \
            for (const float *q = at->q; q < at->q + size; q++) {                                 \
                vf first = vf_load(group), second = vf_load(next);                                \
                group += LANES;                                                                   \
                next += LANES;                                                                    \
                _mm_prefetch(ahead, _MM_HINT_T1);                                                 \
                ahead += step;                                                                    \
                EACH_##R(ADD_SCORE)                                                               \
            }                                                                                     \
            EACH_##R(END_SCORE)                                                                   \
        }                                                                                         \
        EACH_##R(END_PEAK)                                                                        \
        at->ahead = ahead;                                                                        \
    }

#define BEGIN_MIX(i) vf near##i = vf_zero(), far##i = vf_zero();
#define ADD_MIX(i)                                                                                \
    {                                                                                             \
        vf weight = vf_set(weights[i * at->stride]);                                              \
        near##i = vf_fma(weight, first, near##i);                                                 \
        far##i = vf_fma(weight, second, far##i);                                                  \
    }
#define END_MIX(i)                                                                                \
    {                                                                                             \
        vf factor = vf_set(at->factor[i]);                                                        \
        vf_store(at->out[i] + d, vf_mul(near##i, factor));                                        \
        vf_store(at->out[i] + d + more, vf_mul(far##i, factor));                                  \
    }
/* out = (weights x factor) @ values */
#define MIX(R)                                                                                    \
    static void mix_##R(seen *at)                                                           \
    {                                                                                             \
        int64_t size = at->of->head_dim, context = at->of->start + at->of->rows;                  \
        const char *ahead = at->ahead;                                                            \
        for (int64_t d = 0; d < size; d += 2 * LANES) {                                           \
            const float *value = at->values + d, *weights = at->scores, *end = weights + context; \
            /* An odd last vector is computed twice: no head that matters has one. */             \
            int64_t more = d + LANES < size ? LANES : 0;                                          \
            EACH_##R(BEGIN_MIX)                                                                   \
            for (; weights < end; weights++, value += size) {                                     \
                vf first = vf_load(value), second = vf_load(value + more);                        \
                _mm_prefetch(ahead, _MM_HINT_T1);                                                 \
                ahead += at->ahead_step;                                                          \
                EACH_##R(ADD_MIX)                                                                 \
            }                                                                                     \
            EACH_##R(END_MIX)                                                                     \
        }                                                                                         \
        at->ahead = ahead;                                                                        \
    }

EACH_SEEN(SCORE)
EACH_SEEN(MIX)

#define SCORE_OF(R) score_##R,
#define MIX_OF(R) mix_##R,
static void (*const score_rows[])(seen *) = {EACH_SEEN(SCORE_OF)};
static void (*const mix_rows[])(seen *) = {EACH_SEEN(MIX_OF)};

/* Turn row r's scores into exponentials, and its factor into one over their sum. */
static void weigh(seen *at, int r)
{
    vf total = vf_zero(), shift = vf_set(at->largest[r]);
    float *scores = at->scores + r * at->stride;
    for (int64_t j = 0; j < at->stride; j += LANES) {
        /* What the mask forbids is minus infinity still: 0, not the smallest exponential. */
        vf weight = vf_exp(vf_sub(vf_load(scores + j), shift));
        weight = vf_where(at->mask[r] + j, weight, vf_zero());
        vf_store(scores + j, weight);
        total = vf_add(total, weight);
    }
    at->factor[r] = 1.0f / vf_sum(total);
}

/* `count` (query row, head) pairs of one kv head, the first of them number `first` within it. */
static void attend(const attention *at, int64_t kv, int64_t first, int count, const char **ahead,
                   scratch *own)
{
    int64_t size = at->head_dim, group = at->heads / at->kv_heads;
    int64_t width = (at->heads + 2 * at->kv_heads) * size;
    seen s = {
        .of = at,
        .keys = at->keys + kv * at->capacity * size,
        .values = at->values + kv * at->capacity * size,
        .q = own->row,
        .scores = own->scores,
        .stride = (at->start + at->rows + SCORED - 1) / SCORED * SCORED,
        .ahead = *ahead,
        .ahead_step = at->next != NULL ? 64 : 0,
    };
    for (int r = 0; r < count; r++) {
        int64_t row = (first + r) / group, head = kv * group + (first + r) % group;
        s.mask[r] = at->mask + row * at->mask_stride;
        s.out[r] = at->mixed + (row * at->heads + head) * size;
        rotate_row(at, row, at->qkv + row * width + head * size, own->row + r * size);
    }
    score_rows[count - 1](&s);
    for (int r = 0; r < count; r++)
        weigh(&s, r);
    mix_rows[count - 1](&s);
    *ahead = s.ahead;
}

/* One thread's share of `mixed`. */
static void attend_part(const attention *at, int member, int members, scratch *own)
{
    int64_t each = at->rows * (at->heads / at->kv_heads), items = each * at->kv_heads;
    int64_t item = items * member / members, end = items * (member + 1) / members;
    const char *ahead = (const char *)at->keys;
    if (at->next != NULL)
        ahead = (const char *)share_of(at->next, member, members);
    while (item < end) {
        int64_t kv = item / each, left = (kv + 1) * each - item;
        if (left > end - item)
            left = end - item;
        int count = left < SEEN_ROWS ? (int)left : SEEN_ROWS;
        attend(at, kv, item % each, count, &ahead, own);
        item += count;
    }
}

#endif
