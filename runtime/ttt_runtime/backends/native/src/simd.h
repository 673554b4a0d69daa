/* Vectors of the widest kind that this file was compiled for.
 *
 * Everything above this header is written once, in these names: `vf` holds LANES floats, `vi` as
 * many int32 or four times as many bytes. `dot4` is what the products live on: in every lane, four
 * unsigned bytes times four signed ones (-127 .. 127), added to an int32. `dot4_small` is the same
 * for unsigned bytes below 16, and cheaper on CPUs that have no instruction for dot4.
 */
#ifndef TTT_SIMD_H
#define TTT_SIMD_H

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

/* Also here: near(p) and nearer(p) bring the line at `p`, any address, to the first and the second
 * cache; pause_a_little() is what a thread does while it waits; CODES_BELOW is what stored 8-bit
 * codes are short of. Another architecture is another header with the same names. */
#if defined(__ARM_NEON) && defined(__aarch64__)

#include "neon.h"

#else

#include <immintrin.h>

#define CODES_BELOW 0

ALWAYS_INLINE void near(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }
ALWAYS_INLINE void nearer(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }
ALWAYS_INLINE void pause_a_little(void) { _mm_pause(); }

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
ALWAYS_INLINE vf vf_load_bytes(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
ALWAYS_INLINE int vf_any_above(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
ALWAYS_INLINE vf vf_set(float a) { return _mm512_set1_ps(a); }
ALWAYS_INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
ALWAYS_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
ALWAYS_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
ALWAYS_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
ALWAYS_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
ALWAYS_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
ALWAYS_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); } /* b where a is NaN */
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
/* By vectors to the last: the compiler's own sum ends in C, where an overflow is undefined, and the
 * codes of a NaN are the least of all numbers. */
ALWAYS_INLINE int32_t vi_sum(vi a)
{
    __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 1)));
}
ALWAYS_INLINE vi low_halves(vi a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
ALWAYS_INLINE vi high_halves(vi a) { return low_halves(_mm512_srli_epi16(a, 4)); }
ALWAYS_INLINE vi dot4(vi sum, vi bytes, vi signed_bytes)
{
    /* The instruction by its name: GCC 12 copies the sums of its intrinsic to and fro. */
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(signed_bytes));
    return sum;
}
ALWAYS_INLINE vi dot4_small(vi sum, vi codes, vi signed_bytes)
{
    return dot4(sum, codes, signed_bytes);
}
/* LANES int32 within -128 .. 127 as bytes. */
ALWAYS_INLINE void vi_store_bytes(int8_t *p, vi a)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a));
}

#elif defined(__AVX2__) && defined(__FMA__)

#define LANES 8
#define TILE_ROWS 6 /* of two panels: 12 of 16 registers hold sums */
typedef __m256 vf;
typedef __m256i vi;

ALWAYS_INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
ALWAYS_INLINE void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
/* All bits set in the first `count` lanes. */
ALWAYS_INLINE vi vi_first(int count)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
ALWAYS_INLINE void vf_store_part(float *p, vf a, int count)
{
    if (count == LANES) /* AMD takes a dozen cycles for a masked store */
        vf_store(p, a);
    else
        _mm256_maskstore_ps(p, vi_first(count), a);
}
ALWAYS_INLINE vf vf_load_part(const float *p, int count)
{
    return count == LANES ? vf_load(p) : _mm256_maskload_ps(p, vi_first(count));
}
ALWAYS_INLINE vf vf_load_bytes(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
ALWAYS_INLINE int vf_any_above(vf a, vf b)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
}
ALWAYS_INLINE vf vf_set(float a) { return _mm256_set1_ps(a); }
ALWAYS_INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
ALWAYS_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
ALWAYS_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
ALWAYS_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
ALWAYS_INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
ALWAYS_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
ALWAYS_INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
ALWAYS_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
ALWAYS_INLINE vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
ALWAYS_INLINE float vf_sum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
ALWAYS_INLINE float vf_largest(vf a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
ALWAYS_INLINE vf vf_of_vi(vi a) { return _mm256_cvtepi32_ps(a); }
ALWAYS_INLINE vi vi_of_vf(vf a) { return _mm256_cvtps_epi32(a); } /* halves to even */
ALWAYS_INLINE vf vf_round(vf a) { return _mm256_round_ps(a, 8); }
/* a * 2^n for whole n from -126 on; infinite from 128 on. */
ALWAYS_INLINE vf vf_scale(vf a, vf n)
{
    vf exponent = vf_add(_mm256_min_ps(n, vf_set(128.0f)), vf_set(127.0f));
    vi power = _mm256_slli_epi32(vi_of_vf(exponent), 23);
    return vf_mul(a, _mm256_castsi256_ps(power));
}
/* Where one of LANES bytes is 0, `other`. */
ALWAYS_INLINE vf vf_where(const uint8_t *bytes, vf a, vf other)
{
    vi b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bytes));
    vi none = _mm256_cmpeq_epi32(b, _mm256_setzero_si256());
    return _mm256_blendv_ps(a, other, _mm256_castsi256_ps(none));
}

ALWAYS_INLINE vi vi_load(const void *p) { return _mm256_loadu_si256(p); }
ALWAYS_INLINE void vi_store(void *p, vi a) { _mm256_storeu_si256(p, a); }
ALWAYS_INLINE vi vi_set(int32_t a) { return _mm256_set1_epi32(a); }
ALWAYS_INLINE vi vi_zero(void) { return _mm256_setzero_si256(); }
ALWAYS_INLINE vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
ALWAYS_INLINE int32_t vi_sum(vi a)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 1)));
}
ALWAYS_INLINE vi low_halves(vi a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
ALWAYS_INLINE vi high_halves(vi a) { return low_halves(_mm256_srli_epi16(a, 4)); }
/* LANES int32 within -128 .. 127 as bytes. */
ALWAYS_INLINE void vi_store_bytes(int8_t *p, vi a)
{
    __m128i s = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(s, s));
}

#if defined(__AVXVNNI__)

ALWAYS_INLINE vi dot4(vi sum, vi bytes, vi signed_bytes)
{
    /* By its name, as above, in the encoding of CPUs that have no AVX-512. */
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(bytes), "x"(signed_bytes));
    return sum;
}
ALWAYS_INLINE vi dot4_small(vi sum, vi codes, vi signed_bytes)
{
    return dot4(sum, codes, signed_bytes);
}

#else

/* vi_add for the sums of a tile, by its name for the same reason as dot4 above. */
ALWAYS_INLINE vi vi_add_to(vi sum, vi a)
{
    __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(a));
    return sum;
}
/* Sums of two products are int16 here, which holds those of codes of up to 7 bits. */
ALWAYS_INLINE vi dot4_small(vi sum, vi codes, vi signed_bytes)
{
    vi pairs = _mm256_maddubs_epi16(codes, signed_bytes);
    return vi_add_to(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
/* Codes of 8 bits are widened first, the even ones and the odd ones; compilers do so once for all
 * rows of a tile. */
ALWAYS_INLINE vi dot4(vi sum, vi bytes, vi signed_bytes)
{
    vi even = _mm256_and_si256(bytes, _mm256_set1_epi16(255));
    vi odd = _mm256_srli_epi16(bytes, 8);
    vi signed_even = _mm256_srai_epi16(_mm256_slli_epi16(signed_bytes, 8), 8);
    vi signed_odd = _mm256_srai_epi16(signed_bytes, 8);
    vi evens = _mm256_madd_epi16(even, signed_even), odds = _mm256_madd_epi16(odd, signed_odd);
    return vi_add_to(sum, vi_add(evens, odds));
}

#endif

#else
#error "no vectors for this CPU"
#endif

#endif /* x86-64 */

#define VECTOR_BYTES (LANES * 4)

/* e^a to about 1 ulp; below -87.3 (and for minus infinity) 1.2e-38, infinite above 88.3 or so. */
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
