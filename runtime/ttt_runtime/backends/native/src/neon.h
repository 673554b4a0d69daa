/* simd.h's vectors on Arm: two registers of 128 bits make one vector of 8 lanes.
 *
 * So panels lie as AVX2's do, and the sizes that vectors can walk are the same. Of three kinds of
 * CPU, those with i8mm multiply unsigned bytes by signed ones; others know signed bytes only, and
 * 8-bit codes are stored less 128 for them (CODES_BELOW), which the sums make good.
 */
#ifndef TTT_NEON_H
#define TTT_NEON_H

#include <arm_neon.h>

#define LANES 8
#define TILE_ROWS 6 /* of two panels: 24 of 32 registers hold sums */
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define CODES_BELOW 0
#else
#define CODES_BELOW 128
#endif

typedef struct {
    float32x4_t low, high;
} vf;
typedef struct {
    int32x4_t low, high;
} vi;

ALWAYS_INLINE void near(const void *p) { __builtin_prefetch(p, 0, 3); }
ALWAYS_INLINE void nearer(const void *p) { __builtin_prefetch(p, 0, 2); }
/* `yield` does nothing on most cores; this takes some tens of cycles. */
ALWAYS_INLINE void pause_a_little(void) { __asm__ volatile("isb" ::: "memory"); }

ALWAYS_INLINE vf vf_load(const float *p) { return (vf){vld1q_f32(p), vld1q_f32(p + 4)}; }
ALWAYS_INLINE void vf_store(float *p, vf a)
{
    vst1q_f32(p, a.low);
    vst1q_f32(p + 4, a.high);
}
ALWAYS_INLINE void vf_store_part(float *p, vf a, int count)
{
    float lanes[LANES];
    if (count == LANES) {
        vf_store(p, a);
    } else {
        vf_store(lanes, a);
        memcpy(p, lanes, count * sizeof *p);
    }
}
ALWAYS_INLINE vf vf_load_part(const float *p, int count)
{
    float lanes[LANES] = {0};
    if (count == LANES)
        return vf_load(p);
    memcpy(lanes, p, count * sizeof *p);
    return vf_load(lanes);
}
ALWAYS_INLINE vf vf_load_bytes(const int8_t *p)
{
    int16x8_t wide = vmovl_s8(vld1_s8(p));
    return (vf){vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))),
                vcvtq_f32_s32(vmovl_high_s16(wide))};
}
ALWAYS_INLINE int vf_any_above(vf a, vf b)
{
    uint32x4_t low = vcgtq_f32(a.low, b.low), high = vcgtq_f32(a.high, b.high);
    return vmaxvq_u32(vorrq_u32(low, high)) != 0;
}
ALWAYS_INLINE vf vf_set(float a) { return (vf){vdupq_n_f32(a), vdupq_n_f32(a)}; }
ALWAYS_INLINE vf vf_zero(void) { return vf_set(0.0f); }
ALWAYS_INLINE vf vf_add(vf a, vf b)
{
    return (vf){vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)};
}
ALWAYS_INLINE vf vf_sub(vf a, vf b)
{
    return (vf){vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)};
}
ALWAYS_INLINE vf vf_mul(vf a, vf b)
{
    return (vf){vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)};
}
ALWAYS_INLINE vf vf_div(vf a, vf b)
{
    return (vf){vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)};
}
ALWAYS_INLINE vf vf_max(vf a, vf b)
{
    return (vf){vmaxq_f32(a.low, b.low), vmaxq_f32(a.high, b.high)};
}
ALWAYS_INLINE vf vf_min(vf a, vf b)
{
    return (vf){vminq_f32(a.low, b.low), vminq_f32(a.high, b.high)};
}
ALWAYS_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return (vf){vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}
ALWAYS_INLINE vf vf_abs(vf a) { return (vf){vabsq_f32(a.low), vabsq_f32(a.high)}; }
ALWAYS_INLINE float vf_sum(vf a) { return vaddvq_f32(vaddq_f32(a.low, a.high)); }
ALWAYS_INLINE float vf_largest(vf a) { return vmaxvq_f32(vmaxq_f32(a.low, a.high)); }
ALWAYS_INLINE vf vf_of_vi(vi a) { return (vf){vcvtq_f32_s32(a.low), vcvtq_f32_s32(a.high)}; }
/* halves to even */
ALWAYS_INLINE vi vi_of_vf(vf a) { return (vi){vcvtnq_s32_f32(a.low), vcvtnq_s32_f32(a.high)}; }
ALWAYS_INLINE vf vf_round(vf a) { return (vf){vrndnq_f32(a.low), vrndnq_f32(a.high)}; }
/* a * 2^n for whole n from -126 on; infinite from 128 on. */
ALWAYS_INLINE vf vf_scale(vf a, vf n)
{
    vf most = vf_set(128.0f);
    vf least = {vminq_f32(n.low, most.low), vminq_f32(n.high, most.high)};
    vi exponent = vi_of_vf(vf_add(least, vf_set(127.0f)));
    vf power = {vreinterpretq_f32_s32(vshlq_n_s32(exponent.low, 23)),
                vreinterpretq_f32_s32(vshlq_n_s32(exponent.high, 23))};
    return vf_mul(a, power);
}
/* Where one of LANES bytes is 0, `other`. */
ALWAYS_INLINE vf vf_where(const uint8_t *bytes, vf a, vf other)
{
    uint16x8_t wide = vmovl_u8(vld1_u8(bytes));
    uint32x4_t low = vmovl_u16(vget_low_u16(wide)), high = vmovl_high_u16(wide);
    return (vf){vbslq_f32(vtstq_u32(low, low), a.low, other.low),
                vbslq_f32(vtstq_u32(high, high), a.high, other.high)};
}

ALWAYS_INLINE vi vi_load(const void *p)
{
    const uint8_t *bytes = p;
    return (vi){vreinterpretq_s32_u8(vld1q_u8(bytes)), vreinterpretq_s32_u8(vld1q_u8(bytes + 16))};
}
ALWAYS_INLINE void vi_store(void *p, vi a)
{
    uint8_t *bytes = p;
    vst1q_u8(bytes, vreinterpretq_u8_s32(a.low));
    vst1q_u8(bytes + 16, vreinterpretq_u8_s32(a.high));
}
ALWAYS_INLINE vi vi_set(int32_t a) { return (vi){vdupq_n_s32(a), vdupq_n_s32(a)}; }
ALWAYS_INLINE vi vi_zero(void) { return vi_set(0); }
ALWAYS_INLINE vi vi_add(vi a, vi b)
{
    return (vi){vaddq_s32(a.low, b.low), vaddq_s32(a.high, b.high)};
}
ALWAYS_INLINE int32_t vi_sum(vi a) { return vaddvq_s32(vaddq_s32(a.low, a.high)); }
ALWAYS_INLINE int32x4_t lower_nibbles(int32x4_t a)
{
    return vreinterpretq_s32_u8(vandq_u8(vreinterpretq_u8_s32(a), vdupq_n_u8(15)));
}
ALWAYS_INLINE int32x4_t upper_nibbles(int32x4_t a)
{
    return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(a), 4));
}
ALWAYS_INLINE vi low_halves(vi a) { return (vi){lower_nibbles(a.low), lower_nibbles(a.high)}; }
ALWAYS_INLINE vi high_halves(vi a) { return (vi){upper_nibbles(a.low), upper_nibbles(a.high)}; }
/* LANES int32 within -128 .. 127 as bytes. */
ALWAYS_INLINE void vi_store_bytes(int8_t *p, vi a)
{
    vst1_s8(p, vmovn_s16(vcombine_s16(vmovn_s32(a.low), vmovn_s32(a.high))));
}

/* Sums of four products of bytes for each int32. */
ALWAYS_INLINE int32x4_t dot4_of(int32x4_t sum, int32x4_t codes, int32x4_t signed_bytes)
{
    int8x16_t b = vreinterpretq_s8_s32(signed_bytes);
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return vusdotq_s32(sum, vreinterpretq_u8_s32(codes), b);
#elif defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, vreinterpretq_s8_s32(codes), b);
#else
    int8x16_t a = vreinterpretq_s8_s32(codes);
    int32x4_t first = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    int32x4_t second = vpaddlq_s16(vmull_high_s8(a, b));
    return vaddq_s32(sum, vpaddq_s32(first, second));
#endif
}
ALWAYS_INLINE vi dot4(vi sum, vi codes, vi signed_bytes)
{
    return (vi){dot4_of(sum.low, codes.low, signed_bytes.low),
                dot4_of(sum.high, codes.high, signed_bytes.high)};
}
ALWAYS_INLINE vi dot4_small(vi sum, vi codes, vi signed_bytes)
{
    return dot4(sum, codes, signed_bytes);
}

#endif
