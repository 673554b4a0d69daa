/* From the layouts of a bundle's graphs to panels (see product.h). */
#ifndef TTT_PACK_H
#define TTT_PACK_H

#include "engine.h"

/* Where a graph keeps a matrix. Mirrored by `structures.Stored`. */
typedef struct {
    const uint8_t *codes; /* by_rows: int8 [inputs, outputs]; else [outputs, blocks, bytes] */
    const float *scales;  /* by_rows: [outputs]; else [outputs, blocks] */
    const uint8_t *zeros; /* [outputs, bytes], or NULL */
    int64_t by_rows;
} ttt_stored;

static int zero_point(const ttt_matrix *w, const ttt_stored *from, int64_t output, int64_t b)
{
    int64_t blocks = w->inputs / w->block;
    if (w->bits == 8)
        return from->zeros[output * blocks + b];
    uint8_t pair = from->zeros[output * ((blocks + 1) / 2) + b / 2];
    return b % 2 ? pair >> 4 : pair & 15;
}

/* Eight inputs of 4 bits, two to a byte: k0 k1 .. k7 becomes k0 k4 k1 k5 k2 k6 k3 k7. */
static inline uint32_t part_halves(uint32_t x)
{
    uint32_t middle = (x ^ (x >> 8)) & 0x0000ff00; /* swap the bytes in the middle, */
    x ^= middle ^ (middle << 8);
    middle = (x ^ (x >> 4)) & 0x00f000f0; /* then the halves in the middle of each two */
    return x ^ middle ^ (middle << 4);
}

/* The output that lane `lane` of a panel's 2 x LANES holds. */
static int64_t output_of(const ttt_matrix *w, int64_t panel, int lane)
{
    if (!w->gated)
        return panel * PANEL + lane;
    return panel * LANES + lane % LANES + lane / LANES * (w->outputs / 2);
}

/* Codes of one block, which lie output by output: four bytes of every lane's make a pair of
 * vectors.
 */
static void pack_blocks(const ttt_matrix *w, const uint8_t *const *codes, int lanes, uint32_t *to)
{
    int64_t bytes = w->block * w->bits / 8;
    for (int64_t i = 0; i < bytes; i += 4, to += PANEL) {
        for (int lane = 0; lane < lanes; lane++)
            memcpy(&to[lane], codes[lane] + i, 4);
        if (w->bits == 4)
            for (int lane = 0; lane < lanes; lane++)
                to[lane] = part_halves(to[lane]);
        else if (CODES_BELOW != 0)
            for (int lane = 0; lane < lanes; lane++)
                to[lane] ^= 0x80808080u; /* less 128 */
    }
}

/* The same of codes that lie input by input, with a sign. */
static void pack_rows(const ttt_matrix *w, const uint8_t *codes, const int64_t *outputs, int lanes,
                      uint8_t *to)
{
    for (int64_t k = 0; k < w->inputs; k += 4, to += 4 * PANEL, codes += 4 * w->outputs)
        for (int lane = 0; lane < lanes; lane++)
            for (int j = 0; j < 4; j++)
                to[4 * lane + j] = codes[j * w->outputs + outputs[lane]] ^ 0x80 ^ CODES_BELOW;
}

static void pack_panel(const ttt_matrix *w, const ttt_stored *from, int64_t panel, uint8_t *to)
{
    int64_t blocks = w->inputs / w->block, bytes = w->block * w->bits / 8, outputs[PANEL];
    int lanes = 0;
    while (lanes < PANEL && (outputs[lanes] = output_of(w, panel, lanes)) < w->outputs)
        lanes++;
    for (int64_t b = 0; b < blocks; b++, to += block_stride(w)) {
        float *scales = (float *)(to + block_bytes(w));
        if (lanes < PANEL)
            memset(to, 0, block_stride(w)); /* lanes that only fill up */
        if (from->by_rows) {
            pack_rows(w, from->codes, outputs, lanes, to);
        } else {
            const uint8_t *codes[PANEL];
            for (int lane = 0; lane < lanes; lane++)
                codes[lane] = from->codes + (outputs[lane] * blocks + b) * bytes;
            pack_blocks(w, codes, lanes, (uint32_t *)to);
        }
        for (int lane = 0; lane < lanes; lane++) {
            int64_t output = outputs[lane];
            scales[lane] = from->scales[from->by_rows ? output : output * blocks + b];
            if (w->has_zeros)
                scales[PANEL + lane] = scales[lane] * zero_point(w, from, output, b);
        }
    }
}

typedef struct {
    const ttt_matrix *matrix;
    const ttt_stored *stored;
    uint8_t *to;
} pack_job;

static int64_t pack_sections(const void *job)
{
    (void)job;
    return 1;
}

static section_size pack_size(const void *job, int64_t section)
{
    (void)section;
    return (section_size){panel_count(((const pack_job *)job)->matrix), 4};
}

static void pack_run(void *argument, int64_t section, int64_t first, int64_t last, int member)
{
    const pack_job *job = argument;
    (void)section, (void)member;
    for (int64_t p = first; p < last; p++)
        pack_panel(job->matrix, job->stored, p, job->to + p * panel_bytes(job->matrix));
}

static const team_work pack_work = {.sections = pack_sections, .size = pack_size, .run = pack_run};

/* Write a stored matrix to `to` [ttt_packed_bytes] in panels. */
static void pack(ttt_engine *e, const ttt_matrix *w, const ttt_stored *stored, uint8_t *to)
{
    pack_job job = {w, stored, to};
    run_job(e, &pack_work, &job, OTHER, 0);
}

#endif
