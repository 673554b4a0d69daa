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
#define UNROLL_SEEN(M) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8)
#else
#define SEEN_ROWS 6
#define UNROLL_SEEN(M) M(1) M(2) M(3) M(4) M(5) M(6)
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

/* Write keys and values of the new rows: items (kv head, row) from `first` to `last`. */
static void write_cache(const attention *at, int64_t first, int64_t last, float *room)
{
    int64_t size = at->head_dim, width = (at->heads + 2 * at->kv_heads) * size;
    for (int64_t i = first; i < last; i++) {
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
    const char *ahead; /* see `scratch` */
    int64_t ahead_step;
} seen;

/* SCORE(R) and MIX(R) are functions for R query rows; see unroll.h for the names. SCORE(2):
 *
 *     void score_2(seen *at)
 *     {
 *         vf peak0 = minus infinity, peak1 = minus infinity;
 *         for every SCORED cache rows {
 *             vf near0 = 0, far0 = 0, near1 = 0, far1 = 0;
 *             for every number d of the head size {
 *                 vf first = keys d of LANES cache rows, second = those of the next LANES;
 *                 near0 += q[d] * first, far0 += q[d] * second;
 *                 near1 += q[size + d] * first, far1 += q[size + d] * second;
 *             }
 *             mask and store near0, far0, near1, far1; raise peak0, peak1;
 *         }
 *         at->largest[0] = largest of peak0, at->largest[1] = largest of peak1;
 *     }
 */
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
        UNROLL_##R(BEGIN_PEAK)                                                                    \
        for (int64_t j = 0; j < at->stride; j += SCORED) {                                        \
            const float *group = at->keys + j * size, *next = group + LANES * size;               \
            UNROLL_##R(BEGIN_SCORE)                                                               \
            for (const float *q = at->q; q < at->q + size; q++) {                                 \
                vf first = vf_load(group), second = vf_load(next);                                \
                group += LANES;                                                                   \
                next += LANES;                                                                    \
                nearer(ahead);                                                                    \
                ahead += step;                                                                    \
                UNROLL_##R(ADD_SCORE)                                                             \
            }                                                                                     \
            UNROLL_##R(END_SCORE)                                                                 \
        }                                                                                         \
        UNROLL_##R(END_PEAK)                                                                      \
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
    static void mix_##R(seen *at)                                                                 \
    {                                                                                             \
        int64_t size = at->of->head_dim, context = at->of->start + at->of->rows;                  \
        const char *ahead = at->ahead;                                                            \
        for (int64_t d = 0; d < size; d += 2 * LANES) {                                           \
            const float *value = at->values + d, *weights = at->scores, *end = weights + context; \
            /* An odd last vector is computed twice: no head that matters has one. */             \
            int64_t more = d + LANES < size ? LANES : 0;                                          \
            UNROLL_##R(BEGIN_MIX)                                                                 \
            for (; weights < end; weights++, value += size) {                                     \
                vf first = vf_load(value), second = vf_load(value + more);                        \
                nearer(ahead);                                                                    \
                ahead += at->ahead_step;                                                          \
                UNROLL_##R(ADD_MIX)                                                               \
            }                                                                                     \
            UNROLL_##R(END_MIX)                                                                   \
        }                                                                                         \
        at->ahead = ahead;                                                                        \
    }

UNROLL_SEEN(SCORE)
UNROLL_SEEN(MIX)

#define SCORE_OF(R) score_##R,
#define MIX_OF(R) mix_##R,
static void (*const score_rows[])(seen *) = {UNROLL_SEEN(SCORE_OF)};
static void (*const mix_rows[])(seen *) = {UNROLL_SEEN(MIX_OF)};

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
static void attend(const attention *at, int64_t kv, int64_t first, int count, scratch *own)
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
        .ahead = own->ahead,
        .ahead_step = own->ahead_step,
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
    own->ahead = s.ahead;
}

/* Attention's section: as many items at a time as share keys and values, shares in even parts. */
static section_size attended_size(int64_t items, int64_t members)
{
    int64_t share = (items + members - 1) / members;
    int64_t parts = (share + SEEN_ROWS - 1) / SEEN_ROWS;
    return (section_size){items, (share + parts - 1) / parts};
}

/* Part of `mixed`: items (kv head, query row and head of its group) from `first` to `last`. */
static void attend_items(const attention *at, int64_t first, int64_t last, scratch *own)
{
    int64_t each = at->rows * (at->heads / at->kv_heads);
    while (first < last) {
        int64_t kv = first / each, left = (kv + 1) * each - first;
        if (left > last - first)
            left = last - first;
        int64_t parts = (left + SEEN_ROWS - 1) / SEEN_ROWS;
        int count = (int)((left + parts - 1) / parts);
        attend(at, kv, first % each, count, own);
        first += count;
    }
}

#endif
