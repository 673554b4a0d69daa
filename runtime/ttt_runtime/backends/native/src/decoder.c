/* The decoder as one job of a team of threads: what `ttt_runtime.native` calls.
 *
 * A graph of a hundred products costs a start of all threads for each; here they start once for a
 * forward and meet at barriers. Formulas: those of Qwen2, as `ttt_ref.model` computes them. The
 * scores' scale is inside the queries' weights (see `ttt_export.grouped.emitter`).
 */
#define _GNU_SOURCE /* sched_setaffinity and its like */
#include "attention.h"
#include "head.h"
#include "embed.h"
#include "pack.h"
#include "top_k.h"

#define API __attribute__((visibility("default")))

/* Mirrored by `structures.Layer`. */
typedef struct {
    ttt_matrix qkv, out, gate_up, down;
    const float *attention_norm, *mlp_norm; /* [hidden] */
} ttt_layer;

/* Mirrored by `structures.Model`. */
typedef struct {
    int64_t layers, hidden, heads, kv_heads, head_dim, intermediate;
    const ttt_layer *layer;
    const float *norm; /* [hidden] */
    double epsilon;
    int64_t positions;
    const float *cos, *sin; /* [positions, head size / 2] */
    ttt_table table;
} ttt_model;

typedef struct {
    ttt_engine *engine;
    const ttt_model *model;
    const ttt_call *call;
    inputs in;    /* `x` is the residual stream */
    float *qkv;   /* [rows, (heads + 2 kv heads) x head size] */
    float *mixed; /* [rows, heads x head size] */
    float *gated; /* [rows, intermediate] */
    rounded rounded;
} forward_job;

static void lay_out_forward(forward_job *job, pieces *from)
{
    const ttt_model *m = job->model;
    int64_t rows = job->call->rows, context = job->call->start + rows;
    int64_t heads = m->heads + 2 * m->kv_heads, row = m->hidden;
    widest most = {0, 0, 0};
    for (int64_t i = 0; i < m->layers; i++) {
        widen(&most, &m->layer[i].qkv);
        widen(&most, &m->layer[i].out);
        widen(&most, &m->layer[i].gate_up);
        widen(&most, &m->layer[i].down);
    }
    if (row < SEEN_ROWS * m->head_dim)
        row = SEEN_ROWS * m->head_dim;
    /* In steps, so that a context that grows does not ask for new room every time. */
    take_scratch(job->engine, from, &most, (context + 255) / 256 * 256, row);
    job->in.x = take(from, rows * m->hidden * 4);
    job->in.mask_stride = (context + SCORED - 1) / SCORED * SCORED;
    job->in.mask = take(from, rows * job->in.mask_stride);
    job->in.runs = take(from, rows * sizeof(int64_t));
    job->qkv = take(from, rows * heads * m->head_dim * 4);
    job->mixed = take(from, rows * m->heads * m->head_dim * 4);
    job->gated = take(from, rows * m->intermediate * 4);
    job->rounded = take_rounded(from, rows, most.inputs, most.blocks);
}

/* x * weight / rms(x). */
static void norm_row(const float *x, const float *weight, int64_t size, double epsilon, float *out)
{
    vf sum = vf_zero();
    for (int64_t i = 0; i < size; i += LANES)
        sum = vf_fma(vf_load(x + i), vf_load(x + i), sum);
    vf factor = vf_set(1.0f / sqrtf(vf_sum(sum) / (float)size + (float)epsilon));
    for (int64_t i = 0; i < size; i += LANES)
        vf_store(out + i, vf_mul(vf_mul(vf_load(x + i), factor), vf_load(weight + i)));
}

/* Round rows (of their norms, if there is a norm) for a matrix, so that all members may read them.
 *
 * A single row every member rounds for itself: cheaper than waiting for another to do it.
 */
static const rounded *round_rows(forward_job *job, const ttt_matrix *w, const float *x,
                                 const float *norm, int member)
{
    team *t = job->engine->team;
    scratch *own = &job->engine->scratch[member];
    int64_t rows = job->call->rows, blocks = w->inputs / w->block;
    int alone = rows == 1;
    const rounded *to = alone ? &own->private : &job->rounded;
    int64_t first = alone ? 0 : rows * member / t->size;
    int64_t last = alone ? 1 : rows * (member + 1) / t->size;
    for (int64_t r = first; r < last; r++) {
        const float *row = x + r * w->inputs;
        if (norm != NULL) {
            norm_row(row, norm, w->inputs, job->model->epsilon, own->row);
            row = own->row;
        }
        round_row(w, row, to->codes + r * w->inputs, to->scales + r * blocks, to->sums + r * blocks);
    }
    if (!alone)
        team_wait(t);
    return to;
}

static void layer_member(forward_job *job, int64_t index, int member)
{
    const ttt_model *m = job->model;
    const ttt_call *c = job->call;
    const ttt_layer *l = &m->layer[index];
    team *t = job->engine->team;
    scratch *own = &job->engine->scratch[member];
    int alone = c->rows == 1;
    const rounded *a = round_rows(job, &l->qkv, job->in.x, l->attention_norm, member);
    product_part(&l->qkv, a, c->rows, STORE, job->qkv, l->qkv.outputs, member, t->size, own);
    team_wait(t);
    const attention at = {
        .heads = m->heads, .kv_heads = m->kv_heads, .head_dim = m->head_dim,
        .capacity = c->capacity, .rows = c->rows, .start = c->start,
        .mask = job->in.mask, .mask_stride = job->in.mask_stride, .positions = c->positions,
        .cos = m->cos, .sin = m->sin,
        .qkv = job->qkv, .keys = c->keys[index], .values = c->values[index], .mixed = job->mixed,
        .next = alone ? &l->out : NULL,
    };
    write_cache_part(&at, member, t->size, own->row);
    team_wait(t);
    attend_part(&at, member, t->size, own);
    team_wait(t);
    a = round_rows(job, &l->out, job->mixed, NULL, member);
    product_part(&l->out, a, c->rows, ADD, job->in.x, m->hidden, member, t->size, own);
    if (alone)
        look_ahead(&l->gate_up, member, t->size);
    team_wait(t);
    a = round_rows(job, &l->gate_up, job->in.x, l->mlp_norm, member);
    product_part(&l->gate_up, a, c->rows, GATE, job->gated, m->intermediate, member, t->size, own);
    if (alone)
        look_ahead(&l->down, member, t->size);
    team_wait(t);
    a = round_rows(job, &l->down, job->gated, NULL, member);
    product_part(&l->down, a, c->rows, ADD, job->in.x, m->hidden, member, t->size, own);
    if (alone && index + 1 < m->layers)
        look_ahead(&l[1].qkv, member, t->size);
    team_wait(t);
}

static void forward_member(void *argument, int member)
{
    forward_job *job = argument;
    const ttt_model *m = job->model;
    int members = job->engine->team->size;
    int64_t rows = job->call->rows;
    for (int64_t r = rows * member / members; r < rows * (member + 1) / members; r++) {
        embed(job->call, &m->table, m->hidden, r, job->in.x + r * m->hidden);
        write_mask(job->call, &job->in, r);
    }
    team_wait(job->engine->team);
    for (int64_t i = 0; i < m->layers; i++)
        layer_member(job, i, member);
    for (int64_t r = rows * member / members; r < rows * (member + 1) / members; r++)
        norm_row(job->in.x + r * m->hidden, m->norm, m->hidden, m->epsilon,
                 job->call->hidden + r * m->hidden);
}

/* Tell whether every id is in the table and every row has its place and its angles. */
static int is_inside(const ttt_model *m, const ttt_call *c)
{
    if (c->rows < 1 || c->start < 0 || c->start + c->rows > c->capacity)
        return 0;
    if (c->positions == NULL && c->start + c->rows > m->positions)
        return 0;
    for (int64_t r = 0; r < c->rows; r++) {
        if (c->ids[r] < 0 || c->ids[r] >= m->table.rows)
            return 0;
        if (c->positions != NULL && (c->positions[r] < 0 || c->positions[r] >= m->positions))
            return 0;
    }
    return 1;
}

/* Run the decoder; keys and values are written in place. 0; -1 without memory; -2 for an id, a row
 * or a position that does not exist.
 */
API int ttt_forward(ttt_engine *e, const ttt_model *model, const ttt_call *call)
{
    if (!is_inside(model, call))
        return -2;
    forward_job job = {.engine = e, .model = model, .call = call};
    pieces count = {NULL, 0};
    lay_out_forward(&job, &count);
    if (!grow(e, count.taken))
        return -1;
    pieces real = {e->room, 0};
    lay_out_forward(&job, &real);
    number_runs(call, job.in.runs);
    team_run(e->team, forward_member, &job);
    return 0;
}

/* ---- making and unmaking ---- */

API int ttt_choose(ttt_engine *e, const ttt_head *head) { return choose(e, head); }
API int ttt_look(ttt_engine *e, const ttt_survey *s) { return survey(e, s); }
API void ttt_sum_up(ttt_engine *e, const ttt_head *head) { sum_up(e, head); }

/* To be raised with every change that `library` must know of: a library may outlive its sources. */
API int ttt_interface(void) { return 2; }

API int ttt_lanes(void) { return LANES; }
API int ttt_scored(void) { return SCORED; }

/* Bytes that a matrix takes in panels. */
API int64_t ttt_packed_bytes(const ttt_matrix *w) { return panel_count(w) * panel_bytes(w); }

typedef struct {
    team *team;
    const ttt_matrix *matrix;
    const ttt_stored *stored;
    uint8_t *to;
} pack_job;

static void pack_member(void *argument, int member)
{
    pack_job *job = argument;
    int64_t panels = panel_count(job->matrix), size = panel_bytes(job->matrix);
    int members = job->team->size;
    for (int64_t p = panels * member / members; p < panels * (member + 1) / members; p++)
        pack_panel(job->matrix, job->stored, p, job->to + p * size);
}

/* Write a stored matrix to `to` [ttt_packed_bytes] in panels. */
API void ttt_pack(ttt_engine *e, const ttt_matrix *w, const ttt_stored *stored, uint8_t *to)
{
    pack_job job = {e->team, w, stored, to};
    team_run(e->team, pack_member, &job);
}

API void ttt_free(ttt_engine *e)
{
    team_dissolve(e->team, e->team->size - 1);
    free(e->scratch);
    free(e->room);
    free(e);
}

/* Return an engine of so many threads (the caller's among them), or NULL. */
API ttt_engine *ttt_new(int threads)
{
    ttt_engine *e = calloc(1, sizeof *e);
    if (e == NULL)
        return NULL;
    e->scratch = calloc(threads, sizeof *e->scratch);
    e->team = e->scratch == NULL ? NULL : team_new(threads);
    if (e->team != NULL)
        return e;
    free(e->scratch);
    free(e);
    return NULL;
}
