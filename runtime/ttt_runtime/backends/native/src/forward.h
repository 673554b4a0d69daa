/* A forward of the decoder as the sections of a job.
 *
 * Formulas: those of Qwen2, as `ttt_ref.model` computes them. The scores' scale is inside the
 * queries' weights (see `ttt_export.gqa.emitter`).
 */
#ifndef TTT_FORWARD_H
#define TTT_FORWARD_H

#include "attention.h"
#include "embed.h"

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

/* The sections of a layer. Those that round make a matrix's inputs of several rows; a single row
 * every member rounds for itself, which is cheaper than waiting for another to do it. */
typedef enum {
    ROUND_QKV, QKV, WRITE_CACHE, ATTEND, ROUND_OUT, OUT, ROUND_UP, GATE_UP, ROUND_DOWN, DOWN,
    EMBED, /* before the layers */
    NORM   /* after them */
} stage;

static const stage of_one_row[] = {QKV, WRITE_CACHE, ATTEND, OUT, GATE_UP, DOWN};
static const stage of_rows[] = {ROUND_QKV, QKV,      WRITE_CACHE, ATTEND,     ROUND_OUT,
                                OUT,       ROUND_UP, GATE_UP,     ROUND_DOWN, DOWN};

static int64_t stages_of(const forward_job *job)
{
    return job->call->rows == 1 ? sizeof of_one_row / sizeof *of_one_row
                                : sizeof of_rows / sizeof *of_rows;
}

static int64_t forward_sections(const void *argument)
{
    const forward_job *job = argument;
    return job->model->layers * stages_of(job) + 2;
}

/* What a section is, and which layer's. */
static stage stage_at(const forward_job *job, int64_t section, int64_t *layer)
{
    int64_t stages = stages_of(job);
    *layer = (section - 1) / stages;
    if (section == 0)
        return EMBED;
    if (*layer == job->model->layers)
        return NORM;
    return (job->call->rows == 1 ? of_one_row : of_rows)[(section - 1) % stages];
}

static const ttt_matrix *matrix_of(const ttt_layer *l, stage what)
{
    switch (what) {
    case ROUND_QKV:
    case QKV:
        return &l->qkv;
    case ROUND_OUT:
    case OUT:
        return &l->out;
    case ROUND_UP:
    case GATE_UP:
        return &l->gate_up;
    default:
        return &l->down;
    }
}

/* What is multiplied by a matrix, and the norm that comes first or NULL. */
static const float *input_of(const forward_job *job, const ttt_layer *l, stage what,
                             const float **norm)
{
    *norm = NULL;
    switch (what) {
    case ROUND_QKV:
    case QKV:
        *norm = l->attention_norm;
        return job->in.x;
    case ROUND_OUT:
    case OUT:
        return job->mixed;
    case ROUND_UP:
    case GATE_UP:
        *norm = l->mlp_norm;
        return job->in.x;
    default:
        return job->gated;
    }
}

static attention attention_of(const forward_job *job, int64_t layer)
{
    const ttt_model *m = job->model;
    const ttt_call *c = job->call;
    return (attention){
        .heads = m->heads, .kv_heads = m->kv_heads, .head_dim = m->head_dim,
        .capacity = c->capacity, .rows = c->rows, .start = c->start,
        .mask = job->in.mask, .mask_stride = job->in.mask_stride, .positions = c->positions,
        .cos = m->cos, .sin = m->sin,
        .qkv = job->qkv, .keys = c->keys[layer], .values = c->values[layer], .mixed = job->mixed,
    };
}

static section_size forward_size(const void *argument, int64_t section)
{
    const forward_job *job = argument;
    int64_t layer, rows = job->call->rows, members = job->engine->team->members;
    stage what = stage_at(job, section, &layer);
    const ttt_layer *l = &job->model->layer[layer];
    switch (what) {
    case EMBED:
    case NORM:
        return (section_size){rows, 4};
    case ROUND_QKV:
    case ROUND_OUT:
    case ROUND_UP:
    case ROUND_DOWN:
        return (section_size){rows, matrix_of(l, what)->inputs < ROUNDED_AT_ONCE ? 2 : 1};
    case WRITE_CACHE:
        return (section_size){rows * job->model->kv_heads, 8};
    case ATTEND:
        return attended_size(rows * job->model->heads, members);
    default:
        return product_size(matrix_of(l, what), rows);
    }
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

/* Round row `r` of a matrix's inputs (of their norms, if there is a norm). */
static void round_input(const forward_job *job, const ttt_layer *l, stage what, int64_t r,
                        const rounded *to, float *room)
{
    const float *norm;
    const ttt_matrix *w = matrix_of(l, what);
    const float *row = input_of(job, l, what, &norm) + r * w->inputs;
    int64_t blocks = w->inputs / w->block;
    if (norm != NULL) {
        norm_row(row, norm, w->inputs, job->model->epsilon, room);
        row = room;
    }
    round_row(w, row, to->codes + r * w->inputs, to->scales + r * blocks, to->sums + r * blocks);
}

/* Panels of one of a layer's products. */
static void multiply(const forward_job *job, const ttt_layer *l, stage what, int64_t first,
                     int64_t last, int begins, scratch *own)
{
    const ttt_model *m = job->model;
    const ttt_matrix *w = matrix_of(l, what);
    int64_t rows = job->call->rows;
    const rounded *a = rows == 1 ? &own->private : &job->rounded;
    if (rows == 1 && begins)
        round_input(job, l, what, 0, a, own->row);
    if (what == QKV)
        product_panels(w, a, rows, STORE, job->qkv, w->outputs, first, last, own);
    else if (what == GATE_UP)
        product_panels(w, a, rows, GATE, job->gated, m->intermediate, first, last, own);
    else
        product_panels(w, a, rows, ADD, job->in.x, m->hidden, first, last, own);
}

static void forward_run(void *argument, int64_t section, int64_t first, int64_t last, int member)
{
    forward_job *job = argument;
    const ttt_model *m = job->model;
    scratch *own = &job->engine->scratch[member];
    int64_t layer, members = job->engine->team->members;
    stage what = stage_at(job, section, &layer);
    const ttt_layer *l = &m->layer[layer];
    int begins = begins_section(job->engine, section, own);
    switch (what) {
    case EMBED:
        for (int64_t r = first; r < last; r++) {
            embed(job->call, &m->table, m->hidden, r, job->in.x + r * m->hidden);
            write_mask(job->call, &job->in, r);
        }
        return;
    case NORM:
        for (int64_t r = first; r < last; r++)
            norm_row(job->in.x + r * m->hidden, m->norm, m->hidden, m->epsilon,
                     job->call->hidden + r * m->hidden);
        return;
    case ROUND_QKV:
    case ROUND_OUT:
    case ROUND_UP:
    case ROUND_DOWN:
        for (int64_t r = first; r < last; r++)
            round_input(job, l, what, r, &job->rounded, own->row);
        return;
    case WRITE_CACHE: {
        attention at = attention_of(job, layer);
        write_cache(&at, first, last, own->row);
        return;
    }
    case ATTEND: {
        attention at = attention_of(job, layer);
        if (begins) {
            int alone = job->call->rows == 1;
            own->ahead = (const char *)(alone ? share_of(&l->out, member, members) : NULL);
            own->ahead_step = alone ? 64 : 0;
        }
        attend_items(&at, first, last, own);
        return;
    }
    default:
        multiply(job, l, what, first, last, begins, own);
    }
}

/* While a member waits for the others, the memory brings what comes next nearer. */
static void forward_rest(void *argument, int64_t section, int member)
{
    forward_job *job = argument;
    int64_t layer, members = job->engine->team->members;
    stage what = stage_at(job, section, &layer);
    const ttt_layer *l = &job->model->layer[layer];
    if (job->call->rows > 1)
        return;
    if (what == OUT)
        look_ahead(&l->gate_up, member, members);
    else if (what == GATE_UP)
        look_ahead(&l->down, member, members);
    else if (what == DOWN && layer + 1 < job->model->layers)
        look_ahead(&l[1].qkv, member, members);
}

static const team_work forward_work = {
    .sections = forward_sections, .size = forward_size, .run = forward_run, .rest = forward_rest,
};

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

/* Tell whether every id is in the table and every row has its place and its angles. */
static int is_inside(const ttt_model *m, const ttt_call *c)
{
    if (c->rows < 1 || c->start < 0 || c->start + c->rows > c->capacity)
        return 0;
    if (c->rows * m->heads > MOST_UNITS)
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

/* Products of a forward, about. */
static double forward_cost(const forward_job *job)
{
    const ttt_model *m = job->model;
    double weights = (double)m->hidden * (m->heads + 2 * m->kv_heads) * m->head_dim +
                     (double)m->hidden * m->heads * m->head_dim +
                     3.0 * (double)m->hidden * m->intermediate;
    double context = 2.0 * m->heads * m->head_dim * (job->call->start + job->call->rows);
    return (weights + context) * m->layers * job->call->rows;
}

/* Run the decoder; keys and values are written in place. 0; -1 without memory; -2 for an id, a row
 * or a position that does not exist.
 */
static int forward(ttt_engine *e, const ttt_model *model, const ttt_call *call)
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
    run_job(e, &forward_work, &job, call->rows == 1 ? FORWARD_ROW : FORWARD_ROWS,
            forward_cost(&job));
    return 0;
}

#endif
