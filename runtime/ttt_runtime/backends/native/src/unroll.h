/* UNROLL_n(M) is M(0) M(1) ... M(n - 1).
 *
 * Sums that must stay in registers are variables of their own, named by these numbers: compilers
 * keep arrays of vectors in memory, even where every index is known. With
 *
 *     #define ZERO(i) vf sum##i = vf_zero();
 *     #define TAKE(i) sum##i = vf_fma(vf_set(q[i]), k, sum##i);
 *
 * UNROLL_2(ZERO) UNROLL_2(TAKE) reads
 *
 *     vf sum0 = vf_zero(); vf sum1 = vf_zero();
 *     sum0 = vf_fma(vf_set(q[0]), k, sum0); sum1 = vf_fma(vf_set(q[1]), k, sum1);
 */
#ifndef TTT_UNROLL_H
#define TTT_UNROLL_H

#define UNROLL_1(M) M(0)
#define UNROLL_2(M) UNROLL_1(M) M(1)
#define UNROLL_3(M) UNROLL_2(M) M(2)
#define UNROLL_4(M) UNROLL_3(M) M(3)
#define UNROLL_5(M) UNROLL_4(M) M(4)
#define UNROLL_6(M) UNROLL_5(M) M(5)
#define UNROLL_7(M) UNROLL_6(M) M(6)
#define UNROLL_8(M) UNROLL_7(M) M(7)
#define UNROLL_9(M) UNROLL_8(M) M(8)
#define UNROLL_10(M) UNROLL_9(M) M(9)
#define UNROLL_11(M) UNROLL_10(M) M(10)
#define UNROLL_12(M) UNROLL_11(M) M(11)

#endif
