/* Matrix products in whole numbers: stored 4- or 8-bit codes times inputs rounded to 8 bit.
 *
 * A matrix W [inputs, outputs] lies in panels of 2 x LANES outputs, one behind the other, so that a
 * thread reads its share of a matrix from front to back. A panel holds its blocks: the codes of
 * `block` inputs, then the scales of its outputs, then, where the matrix has zero points, zero
 * point x scale. Codes are unsigned; a symmetric matrix has its zero in the middle (8 or 128).
 * Vectors of codes come in pairs, one for each half of the panel's outputs; each lane holds four
 * inputs of one output; of 4 bits, the low halves of a vector are four inputs, the high halves the
 * four after them.
 *
 * A gated matrix is two side by side, gate and up: a panel has LANES outputs of each.
 *
 * Inputs are rounded with one scale for each row and block, so a row's result depends on that row
 * alone. Sums of a block are exact (int32); sums over blocks are float32.
 */
#ifndef TTT_PRODUCT_H
#define TTT_PRODUCT_H

#include "unroll.h"
#include "team.h"

#define PANEL (2 * LANES)
#define ROW_GROUP 64  /* rows whose sums of one panel fit the first cache */
/* Bytes: what memory delivers while the first of them is on its way. */
#define AHEAD 8192
/* Of a matrix that comes next, per thread. */
#define LOOK_AHEAD 8192
/* What is taken of a product at a time: microseconds of work, a hundred times what taking costs. */
#define GRAIN_PRODUCTS 131072
#define ROUNDED_AT_ONCE 2048 /* floats, about */

/* One stored matrix. Mirrored by `structures.Matrix`. */
typedef struct {
    const uint8_t *panels;
    const float *bias; /* [outputs], or NULL */
    int64_t inputs, outputs, bits, block;
    int64_t has_zeros, gated;
} ttt_matrix;

/* Rows of inputs, rounded for one matrix. */
typedef struct {
    int8_t *codes; /* [rows, inputs] */
    float *scales; /* [rows, blocks] */
    int32_t *sums; /* [rows, blocks], of the codes */
} rounded;

/* Where the sums of a panel go. */
typedef enum { STORE, ADD, GATE } finish;

/* What one thread needs for itself. */
typedef struct {
    float *sums;     /* [ROW_GROUP, PANEL] */
    uint8_t *codes;  /* [block, PANEL] unpacked */
    float *scores;   /* [8, context] of attention */
    float *row;      /* one row of floats */
    rounded private; /* of a single row, which every thread rounds for itself */
    int64_t section; /* the last one begun, see `begins` */
    /* Attention of a single row leaves the memory idle: it brings what is multiplied next nearer,
     * so many bytes a step. */
    const char *ahead;
    int64_t ahead_step;
} scratch;

static inline int64_t block_bytes(const ttt_matrix *w) { return w->block * PANEL * w->bits / 8; }

static inline int64_t block_stride(const ttt_matrix *w)
{
    return block_bytes(w) + (1 + w->has_zeros) * PANEL * sizeof(float);
}

static inline int64_t panel_bytes(const ttt_matrix *w)
{
    return w->inputs / w->block * block_stride(w);
}

static inline int64_t panel_count(const ttt_matrix *w) { return (w->outputs + PANEL - 1) / PANEL; }

/* Round one row x [inputs]. */
static void round_row(const ttt_matrix *w, const float *x, int8_t *codes, float *scales,
                      int32_t *sums)
{
    int64_t block = w->block;
    for (int64_t b = 0; b < w->inputs / block; b++, x += block, codes += block) {
        vf peaks = vf_zero();
        for (int64_t i = 0; i < block; i += LANES)
            peaks = vf_max(peaks, vf_abs(vf_load(x + i)));
        float peak = vf_largest(peaks);
        if (peak < 1e-30f) /* a block of zeros stays finite */
            peak = 1e-30f;
        vf per_unit = vf_set(127.0f / peak);
        vf most = vf_set(127.0f), least = vf_set(-127.0f);
        vi sum = vi_zero();
        for (int64_t i = 0; i < block; i += LANES) {
            /* A NaN, and what a peak of NaNs let through, is cut: the sums below cannot overflow. */
            vf unit = vf_max(vf_min(vf_mul(vf_load(x + i), per_unit), most), least);
            vi code = vi_of_vf(unit);
            vi_store_bytes(codes + i, code);
            sum = vi_add(sum, code);
        }
        scales[b] = peak / 127.0f;
        sums[b] = vi_sum(sum);
    }
}

/* Add `steps` pairs of vectors of packed 4-bit codes times one row's codes. */
ALWAYS_INLINE void dots_packed(const uint8_t *w, int64_t steps, const int8_t *a, vi *sum)
{
    vi odd[2] = {vi_zero(), vi_zero()}; /* sums of their own: the next need not wait for the last */
    for (int64_t s = 0; s < steps; s++, w += 2 * VECTOR_BYTES) {
        vi low = vi_set(four_bytes(a + 8 * s)), high = vi_set(four_bytes(a + 8 * s + 4));
        for (int half = 0; half < 2; half++) {
            const uint8_t *from = w + half * VECTOR_BYTES;
            near(from + AHEAD);
            vi both = vi_load(from);
            sum[half] = dot4_small(sum[half], low_halves(both), low);
            odd[half] = dot4_small(odd[half], high_halves(both), high);
        }
    }
    for (int half = 0; half < 2; half++)
        sum[half] = vi_add(sum[half], odd[half]);
}

/* Add the sums of half a panel and a block, scaled, to the float sums [LANES] of one row. */
ALWAYS_INLINE void add_scaled(vi sum, const float *scales, int has_zeros, float input_scale,
                              int32_t input_sum, float *into)
{
    vf units = vf_of_vi(sum), total = vf_load(into);
    if (has_zeros) {
        vf shift = vf_mul(vf_set((float)input_sum), vf_load(scales + PANEL));
        vf value = vf_sub(vf_mul(units, vf_load(scales)), shift);
        total = vf_fma(value, vf_set(input_scale), total);
    } else {
        total = vf_fma(units, vf_mul(vf_load(scales), vf_set(input_scale)), total);
    }
    vf_store(into, total);
}

/* One block of a panel, its codes unpacked, and the rows that it meets. */
typedef struct {
    const ttt_matrix *matrix;
    const uint8_t *codes;
    const float *scales;
    const int8_t *inputs;        /* rows `matrix->inputs` apart */
    const float *input_scales;   /* rows `blocks` apart */
    const int32_t *input_sums;   /* likewise */
    int64_t blocks;
    float *sums;                 /* [rows, PANEL] */
    /* The next panel comes nearer in even steps while all tiles of this one are worked on; without
     * that the first tile waits for the memory and the others leave it idle. */
    const char *ahead;
    int64_t ahead_step;
} block_of;

ALWAYS_INLINE vi dot_of(int bits, vi sum, vi codes, vi four)
{
    return bits == 4 ? dot4_small(sum, codes, four) : dot4(sum, codes, four);
}

/* ROWS_OF_BLOCK(R) is a function for a tile of R rows. ROWS_OF_BLOCK(2), without the prefetch:
 *
 *     void rows_of_bits_2(const block_of *at, int bits)
 *     {
 *         vi first0 = vi_set(middle * input_sums[0]), second0 = first0;
 *         vi first1 = vi_set(middle * input_sums[blocks]), second1 = first1;
 *         for (; codes < end; codes += 2 * VECTOR_BYTES, inputs += 4) {
 *             vi low = vi_load(codes), high = vi_load(codes + VECTOR_BYTES);
 *             { four inputs of row 0: first0 += dot4(low, four), second0 += dot4(high, four) }
 *             { four inputs of row 1: first1 += dot4(low, four), second1 += dot4(high, four) }
 *         }
 *         { scale first0 and second0 by the block, add them to the sums of row 0 }
 *         { the same of row 1 }
 *     }
 *
 * and rows_of_block_2 calls it with the number of bits as a constant.
 */
#define BEGIN_ROW(i)                                                                              \
    vi first##i = vi_set(middle * at->input_sums[i * at->blocks]), second##i = first##i;
#define ADD_ROW(i)                                                                                \
    {                                                                                             \
        vi four = vi_set(four_bytes(inputs + i * stride));                                        \
        first##i = dot_of(bits, first##i, low, four);                                             \
        second##i = dot_of(bits, second##i, high, four);                                          \
    }
#define END_ROW(i)                                                                                \
    {                                                                                             \
        float scale = at->input_scales[i * at->blocks], *to = at->sums + i * PANEL;               \
        int32_t sum = at->input_sums[i * at->blocks];                                             \
        add_scaled(first##i, at->scales, w->has_zeros != 0, scale, sum, to);                      \
        add_scaled(second##i, at->scales + LANES, w->has_zeros != 0, scale, sum, to + LANES);     \
    }
#define ROWS_OF_BLOCK(R)                                                                          \
    ALWAYS_INLINE void rows_of_bits_##R(const block_of *at, int bits)                             \
    {                                                                                             \
        const ttt_matrix *w = at->matrix;                                                         \
        const uint8_t *codes = at->codes, *end = codes + w->block * PANEL;                        \
        const int8_t *inputs = at->inputs;                                                        \
        int64_t stride = w->inputs;                                                               \
        int32_t middle = (w->has_zeros ? 0 : -(1 << (bits - 1))) + (bits == 8 ? CODES_BELOW : 0); \
        const char *ahead = at->ahead;                                                            \
        UNROLL_##R(BEGIN_ROW)                                                                     \
        for (; codes < end; codes += 2 * VECTOR_BYTES, inputs += 4) {                             \
            nearer(ahead);                                                                        \
            ahead += at->ahead_step;                                                              \
            vi low = vi_load(codes), high = vi_load(codes + VECTOR_BYTES);                        \
            UNROLL_##R(ADD_ROW)                                                                   \
        }                                                                                         \
        UNROLL_##R(END_ROW)                                                                       \
    }                                                                                             \
    static void rows_of_block_##R(const block_of *at)                                             \
    {                                                                                             \
        if (at->matrix->bits == 4)                                                                \
            rows_of_bits_##R(at, 4);                                                              \
        else                                                                                      \
            rows_of_bits_##R(at, 8);                                                              \
    }

#if TILE_ROWS == 12
#define UNROLL_TILE(M) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12)
#else
#define UNROLL_TILE(M) M(1) M(2) M(3) M(4) M(5) M(6)
#endif
UNROLL_TILE(ROWS_OF_BLOCK)

static void (*const rows_of_block[])(const block_of *) = {
#define NAME_OF(R) rows_of_block_##R,
    UNROLL_TILE(NAME_OF)
};

/* Packed pairs of vectors to twice as many pairs: low halves first. */
static void unpack(const uint8_t *from, int64_t bytes, uint8_t *to)
{
    for (int64_t i = 0; i < bytes; i += 2 * VECTOR_BYTES, to += 4 * VECTOR_BYTES) {
        for (int half = 0; half < 2; half++) {
            vi both = vi_load(from + i + half * VECTOR_BYTES);
            vi_store(to + half * VECTOR_BYTES, low_halves(both));
            vi_store(to + (2 + half) * VECTOR_BYTES, high_halves(both));
        }
    }
}

/* Sums [rows, PANEL] of a panel, for rows from `row` on; at most ROW_GROUP of them. */
static void sums_of_panel(const ttt_matrix *w, const uint8_t *panel, const rounded *a, int64_t row,
                          int64_t rows, scratch *own)
{
    int64_t bytes = block_bytes(w), tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    block_of at = {.matrix = w, .blocks = w->inputs / w->block};
    at.ahead_step = 2 * VECTOR_BYTES * w->bits / 8 / tiles;
    memset(own->sums, 0, rows * PANEL * sizeof(float));
    for (int64_t b = 0; b < at.blocks; b++, panel += block_stride(w)) {
        at.codes = panel;
        at.scales = (const float *)(panel + bytes);
        if (w->bits == 4) {
            unpack(panel, bytes, own->codes);
            at.codes = own->codes;
        }
        for (int64_t t = 0, done = 0; t < tiles; t++) {
            int64_t count = rows * (t + 1) / tiles - done; /* tiles of nearly one size */
            at.inputs = a->codes + (row + done) * w->inputs + b * w->block;
            at.input_scales = a->scales + (row + done) * at.blocks + b;
            at.input_sums = a->sums + (row + done) * at.blocks + b;
            at.sums = own->sums + done * PANEL;
            at.ahead = (const char *)panel + panel_bytes(w) + t * (bytes / tiles);
            rows_of_block[count - 1](&at);
            done += count;
        }
    }
}

/* The same of a single row over 4-bit codes, unpacked on their way. */
static void sums_of_row(const ttt_matrix *w, const uint8_t *panel, const rounded *a, int64_t row,
                        float *sums)
{
    int64_t bytes = block_bytes(w), blocks = w->inputs / w->block;
    int32_t middle = w->has_zeros ? 0 : 8;
    const int8_t *codes = a->codes + row * w->inputs;
    memset(sums, 0, PANEL * sizeof(float));
    for (int64_t b = 0; b < blocks; b++, panel += block_stride(w), codes += w->block) {
        int32_t input_sum = a->sums[row * blocks + b];
        vi sum[2] = {vi_set(-middle * input_sum), vi_set(-middle * input_sum)};
        dots_packed(panel, w->block / 8, codes, sum);
        const float *scales = (const float *)(panel + bytes);
        for (int half = 0; half < 2; half++)
            add_scaled(sum[half], scales + half * LANES, w->has_zeros != 0,
                       a->scales[row * blocks + b], input_sum, sums + half * LANES);
    }
}

/* x * sigmoid(x), times up. */
ALWAYS_INLINE vf gated(vf x, vf up)
{
    vf below = vf_add(vf_set(1.0f), vf_exp(vf_sub(vf_zero(), x)));
    return vf_mul(vf_div(x, below), up);
}

/* Put a panel's sums of one row where they belong in out [width]. */
static void put(const ttt_matrix *w, finish how, int64_t panel, const float *sums, float *out)
{
    if (how == GATE) {
        vf_store(out + panel * LANES, gated(vf_load(sums), vf_load(sums + LANES)));
        return;
    }
    for (int half = 0; half < 2; half++) {
        int64_t first = panel * PANEL + half * LANES, left = w->outputs - first;
        if (left <= 0)
            return;
        int count = left < LANES ? (int)left : LANES;
        vf value = vf_load(sums + half * LANES);
        if (w->bias != NULL)
            value = vf_add(value, vf_load_part(w->bias + first, count));
        if (how == ADD)
            value = vf_add(value, vf_load_part(out + first, count));
        vf_store_part(out + first, value, count);
    }
}

/* Where a member's share of a matrix begins. */
static const uint8_t *share_of(const ttt_matrix *w, int64_t member, int64_t members)
{
    return w->panels + share_begin(panel_count(w), member, members) * panel_bytes(w);
}

/* Have the first bytes of a member's share brought nearer while it does other things: attention,
 * norms and the waits of a single row leave the memory idle.
 */
static void look_ahead(const ttt_matrix *w, int64_t member, int64_t members)
{
    const uint8_t *share = share_of(w, member, members);
    for (int64_t i = 0; i < LOOK_AHEAD; i += 64)
        nearer(share + i);
}

/* A product's section: its units are panels. */
static section_size product_size(const ttt_matrix *w, int64_t rows)
{
    int64_t grain = GRAIN_PRODUCTS / (w->inputs * PANEL * rows);
    return (section_size){panel_count(w), grain > 1 ? grain : 1};
}

/* Panels `first` to `last` of out [rows, width] = (or +=) rounded rows @ W (+ bias).
 *
 * GATE takes a gated matrix and gives silu(gate) * up.
 */
static void product_panels(const ttt_matrix *w, const rounded *a, int64_t rows, finish how,
                           float *out, int64_t width, int64_t first, int64_t last, scratch *own)
{
    for (int64_t p = first; p < last; p++) {
        const uint8_t *panel = w->panels + p * panel_bytes(w);
        for (int64_t row = 0; row < rows; row += ROW_GROUP) {
            int64_t count = rows - row < ROW_GROUP ? rows - row : ROW_GROUP;
            if (count == 1 && w->bits == 4)
                sums_of_row(w, panel, a, row, own->sums);
            else
                sums_of_panel(w, panel, a, row, count, own);
            for (int64_t r = 0; r < count; r++)
                put(w, how, p, own->sums + r * PANEL, out + (row + r) * width);
        }
    }
}

#endif
