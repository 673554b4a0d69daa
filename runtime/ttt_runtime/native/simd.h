/* Vectors of the widest kind that this file was compiled for.
 *
 * Everything above this header is written once, in these names: `vf` holds LANES floats, `vi` as
 * many int32 or four times as many bytes. `dot4` is what the products live on: in every lane, four
 * unsigned bytes times four signed ones, added to an int32.
 */
#ifndef TTT_SIMD_H
#define TTT_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Four signed bytes as the int32 that is broadcast to all lanes. */
ALWAYS_INLINE int32_t four_bytes(const int8_t *from)
{
    int32_t bits;
    memcpy(&bits, from, sizeof bits);
    return bits;
}

#if defined(__AVX512VNNI__)

#define LANES 16
#define TILE_ROWS 12 /* of two panels: 24 of 32 registers hold sums */
typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vmask;

ALWAYS_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
ALWAYS_INLINE void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
ALWAYS_INLINE void vf_store_part(float *p, vf a, int count)
{
    _mm512_mask_storeu_ps(p, (vmask)((1u << count) - 1), a);
}
ALWAYS_INLINE vf vf_load_part(const float *p, int count)
{
    return _mm512_maskz_loadu_ps((vmask)((1u << count) - 1), p);
}
ALWAYS_INLINE vf vf_set(float a) { return _mm512_set1_ps(a); }
ALWAYS_INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
ALWAYS_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
ALWAYS_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
ALWAYS_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
ALWAYS_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
ALWAYS_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
ALWAYS_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
ALWAYS_INLINE vf vf_abs(vf a) { return _mm512_abs_ps(a); }
ALWAYS_INLINE float vf_sum(vf a) { return _mm512_reduce_add_ps(a); }
ALWAYS_INLINE float vf_largest(vf a) { return _mm512_reduce_max_ps(a); }
ALWAYS_INLINE vf vf_of_vi(vi a) { return _mm512_cvtepi32_ps(a); }
ALWAYS_INLINE vi vi_of_vf(vf a) { return _mm512_cvtps_epi32(a); } /* halves to even */
ALWAYS_INLINE vf vf_round(vf a) { return _mm512_roundscale_ps(a, 8); }
/* a * 2^n for whole n. */
ALWAYS_INLINE vf vf_scale(vf a, vf n) { return _mm512_scalef_ps(a, n); }
/* Where one of LANES bytes is 0, `other`. */
ALWAYS_INLINE vf vf_where(const uint8_t *bytes, vf a, vf other)
{
    __m128i b = _mm_loadu_si128((const __m128i *)bytes);
    return _mm512_mask_blend_ps(_mm_test_epi8_mask(b, b), other, a);
}

ALWAYS_INLINE vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
ALWAYS_INLINE void vi_store(void *p, vi a) { _mm512_storeu_si512(p, a); }
ALWAYS_INLINE vi vi_set(int32_t a) { return _mm512_set1_epi32(a); }
ALWAYS_INLINE vi vi_zero(void) { return _mm512_setzero_si512(); }
ALWAYS_INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
ALWAYS_INLINE int32_t vi_sum(vi a) { return _mm512_reduce_add_epi32(a); }
ALWAYS_INLINE vi low_halves(vi a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
ALWAYS_INLINE vi high_halves(vi a) { return low_halves(_mm512_srli_epi16(a, 4)); }
ALWAYS_INLINE vi dot4(vi sum, vi bytes, vi signed_bytes)
{
    /* The instruction by its name: GCC 12 copies the sums of its intrinsic to and fro. */
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(signed_bytes));
    return sum;
}
/* LANES int32 within -128 .. 127 as bytes. */
ALWAYS_INLINE void vi_store_bytes(int8_t *p, vi a)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a));
}

#else
#error "no vectors for this CPU"
#endif

#define VECTOR_BYTES (LANES * 4)

/* e^a to about 1 ulp; 0 below -87 (and for minus infinity). */
ALWAYS_INLINE vf vf_exp(vf a)
{
    vf clamped = vf_max(a, vf_set(-87.3f));
    vf n = vf_round(vf_mul(clamped, vf_set(1.44269504f)));
    vf r = vf_fma(n, vf_set(-0.693359375f), clamped); /* ln 2 in two parts (Cody and Waite) */
    r = vf_fma(n, vf_set(2.12194440e-4f), r);
    vf p = vf_set(1.9875691500e-4f); /* the Cephes library's polynomial of expf */
    p = vf_fma(p, r, vf_set(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set(5.0000001201e-1f));
    p = vf_fma(vf_mul(r, r), p, vf_add(r, vf_set(1.0f)));
    return vf_scale(p, n);
}

#endif
