// y = W x for one row x in bfloat16, in the very order of additions in which oneDNN's matrix product does it.
//
// Output o is a chain of VDPBF16PS over pairs of inputs, two at a time, in ascending order, in float32; after
// every `block` inputs a new chain begins. Chains are added up in order, and after every `span` chains a new sum
// begins (where oneDNN divides the inputs among threads); these are added up too. The result is rounded once.
// oneDNN lays weights out anew for this at every call. Here they are read once, as they lie, sixteen rows at a
// time, and turned round in registers. So it runs at the speed of memory.
//
// Axes: O outputs (rows of W), I inputs.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define LOCUM_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#endif

namespace {

constexpr std::int64_t kRows = 16;               // float32 lanes of a register
constexpr std::int64_t kLine = 32;               // bfloat16 in a cache line
constexpr std::int64_t kNear = 128;              // inputs that each row is fetched ahead of its use, from the L2
constexpr std::int64_t kFar = 512;               // and from memory, where sixteen rows are too large for the L2
constexpr std::int64_t kFarBytes = 128 << 10;    // which they are from this size on
constexpr std::int64_t kChunkBytes = 512 << 10;  // of weights, about 20 us

struct Product {
    const std::uint16_t *w, *x;
    std::uint16_t *y;
    std::int64_t outputs, inputs, block, span, chunk_rows;
};

#if defined(__x86_64__)

// acc += 16 rows times the inputs of one cache line. z[r] holds 16 pairs of row r; after the transposition each
// register holds one pair of all 16 rows. `pairs`: how many of them count.
LOCUM_BF16 inline __attribute__((always_inline)) __m512 multiply(__m512i z[16], const std::uint16_t *x, int pairs,
                                                                  __m512 acc) {
    __m512i u[16], p[16];
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
        const __m512i a = _mm512_unpacklo_epi32(z[4 * q], z[4 * q + 1]);
        const __m512i b = _mm512_unpackhi_epi32(z[4 * q], z[4 * q + 1]);
        const __m512i c = _mm512_unpacklo_epi32(z[4 * q + 2], z[4 * q + 3]);
        const __m512i d = _mm512_unpackhi_epi32(z[4 * q + 2], z[4 * q + 3]);
        u[q] = _mm512_unpacklo_epi64(a, c);
        u[4 + q] = _mm512_unpackhi_epi64(a, c);
        u[8 + q] = _mm512_unpacklo_epi64(b, d);
        u[12 + q] = _mm512_unpackhi_epi64(b, d);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        const __m512i a = _mm512_shuffle_i32x4(u[4 * j], u[4 * j + 1], 0x88);
        const __m512i b = _mm512_shuffle_i32x4(u[4 * j], u[4 * j + 1], 0xdd);
        const __m512i c = _mm512_shuffle_i32x4(u[4 * j + 2], u[4 * j + 3], 0x88);
        const __m512i d = _mm512_shuffle_i32x4(u[4 * j + 2], u[4 * j + 3], 0xdd);
        p[j] = _mm512_shuffle_i32x4(a, c, 0x88);
        p[4 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
        p[8 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
        p[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
        std::int32_t pair;
        std::memcpy(&pair, x + 2 * i, sizeof pair);
        if (i < pairs) acc = _mm512_dpbf16_ps(acc, (__m512bh)p[i], (__m512bh)_mm512_set1_epi32(pair));
    }
    return acc;
}

// 16 rows from `w`, of which `rows` exist, times inputs begin..end of `x`, in one chain.
LOCUM_BF16 inline __attribute__((always_inline)) __m512 chain(const Product &p, const std::uint16_t *w,
                                                               std::int64_t rows, std::int64_t begin,
                                                               std::int64_t end) {
    __m512 acc = _mm512_setzero_ps();
    __m512i z[16];
    // The next sixteen rows come from memory in the order in which they lie, which memory likes best.
    const bool in_order = 2 * kRows * p.inputs <= kFarBytes;
    const std::int64_t far_step = in_order ? kLine : p.inputs, far_rate = in_order ? kRows : 1;
    const std::uint16_t *far = w + (in_order ? kRows * p.inputs : kFar);
    std::int64_t i = begin;
    for (; i + kLine <= end; i += kLine) {
        const std::uint16_t *soon = w + i + kNear, *later = far + i * far_rate;
#pragma GCC unroll 16
        for (std::int64_t r = 0; r < kRows; ++r) {
            _mm_prefetch(soon + r * p.inputs, _MM_HINT_T0);
            _mm_prefetch(later + r * far_step, _MM_HINT_T0);
        }
#pragma GCC unroll 16
        for (std::int64_t r = 0; r < kRows; ++r)
            z[r] = _mm512_loadu_si512(w + std::min(r, rows - 1) * p.inputs + i);
        acc = multiply(z, p.x + i, 16, acc);
    }
    if (i < end) {
        const int pairs = static_cast<int>((end - i + 1) / 2);
        const auto mask = static_cast<__mmask32>((std::uint64_t{1} << (end - i)) - 1);
        alignas(64) std::uint16_t x[kLine];
        _mm512_store_si512(x, _mm512_maskz_loadu_epi16(mask, p.x + i));
        for (std::int64_t r = 0; r < kRows; ++r)
            z[r] = _mm512_maskz_loadu_epi16(mask, w + std::min(r, rows - 1) * p.inputs + i);
        acc = multiply(z, x, pairs, acc);
    }
    return acc;
}

LOCUM_BF16 void rows(void *context, std::int64_t chunk) {
    const Product &p = *static_cast<const Product *>(context);
    const std::int64_t last = std::min(p.outputs, (chunk + 1) * p.chunk_rows);
    for (std::int64_t o = chunk * p.chunk_rows; o < last; o += kRows) {
        const std::int64_t here = std::min(kRows, last - o);
        const std::uint16_t *w = p.w + o * p.inputs;
        __m512 total = _mm512_setzero_ps(), sum = total;
        for (std::int64_t i = 0, chains = 0; i < p.inputs; i += p.block, ++chains) {
            const std::int64_t end = std::min(p.inputs, i + p.block);
            const __m512 acc = here == kRows ? chain(p, w, kRows, i, end) : chain(p, w, here, i, end);
            const bool begins = chains % p.span == 0;
            if (begins && chains > 0) total = chains == p.span ? sum : _mm512_add_ps(total, sum);
            sum = begins ? acc : _mm512_add_ps(sum, acc);
        }
        total = p.inputs <= p.span * p.block ? sum : _mm512_add_ps(total, sum);
        const auto rounded = (__m256i)_mm512_cvtneps_pbh(total);
        _mm256_mask_storeu_epi16(p.y + o, static_cast<__mmask16>((1u << here) - 1), rounded);
    }
}

#endif

}  // namespace

extern "C" {

// 1 when this processor has the instructions that `locum_linear_bf16` needs.
__attribute__((visibility("default"))) int locum_has_bf16() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
#else
    return 0;
#endif
}

// y[outputs] = w[outputs, inputs] x[inputs] in bfloat16, in chains of `block` inputs (a positive multiple of 32) and
// sums of `span` chains, on at most `threads` threads. The bits of y depend neither on `threads` nor on where the
// weights lie.
__attribute__((visibility("default"))) void locum_linear_bf16(const std::uint16_t *w, const std::uint16_t *x,
                                                              std::uint16_t *y, std::int64_t outputs,
                                                              std::int64_t inputs, std::int64_t block, std::int64_t span,
                                                              int threads) {
#if defined(__x86_64__)
    const std::int64_t row_bytes = 2 * std::max<std::int64_t>(inputs, 1);
    const std::int64_t groups = std::max<std::int64_t>(1, kChunkBytes / (kRows * row_bytes));
    Product product{w, x, y, outputs, inputs, block, span, groups * kRows};
    locum::parallel(rows, &product, (outputs + product.chunk_rows - 1) / product.chunk_rows, threads);
#else
    (void)w, (void)x, (void)y, (void)outputs, (void)inputs, (void)block, (void)span, (void)threads;
#endif
}
}
