// Products of many windows with bfloat16 weights in AMX tiles, where the machine has them.
//
// A float is the exact sum of three bfloat16 numbers, its highest, middle and lowest eight bits. Their products with the
// weights are exact and summed in float32, so activations are not rounded here either: what differs from the plain
// loop is the order of a sum (and that parts below 2^-126 count as zero, and that what is infinite becomes NaN).
#pragma once
#include "linear.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define AIZUCHI_TILES 1
#endif

namespace aizuchi {

constexpr int64_t TILE = 16;        // positions, and outputs, of a tile
constexpr int64_t TILE_INPUTS = 32;  // inputs of a tile
constexpr int PARTS = 3;

#if defined(AIZUCHI_TILES)

// The system hands out the registers only to those who ask.
inline bool has_tiles() {
  constexpr int REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
  return granted;
}

// x (n) -> three planes (n) of bfloat16, cut off and not rounded: what is left is exact.
inline void split(const float* x, int64_t n, uint16_t* const planes[PARTS]) {
  auto cut = [&](Lanes rest, int64_t i, int64_t count) {
    for (int part = 0; part < PARTS; part++) {
      const Bits top = bits_of<Bits>(rest) & 0xffff0000u;
      const Halves half = __builtin_convertvector(top >> 16, Halves);
      std::memcpy(planes[part] + i, &half, count * sizeof(uint16_t));
      rest = rest - bits_of<Lanes>(top);
    }
  };
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) cut(load(x + i), i, LANES);  // a count that compilers know
  if (i < n) {
    Lanes rest = {};
    std::memcpy(&rest, x + i, (n - i) * sizeof(float));
    cut(rest, i, n - i);
  }
}

// All eight registers: 16 rows of 64 bytes. To be given back when the work is done.
struct Tiles {
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, none[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } all;
    for (int i = 0; i < 8; i++) all.bytes[i] = 64, all.rows[i] = TILE;
    asm volatile("" ::"r"(&all) : "memory");  // compilers think that only the first bytes are read
    _tile_loadconfig(&all);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
};

// y (16 or 32 positions, 16 or 32 outputs) of `blocks` times 32 inputs. Weights: rows of two inputs, `pair` bytes apart.
// x: three planes, positions `step` bytes apart, the second sixteen `further` bytes from the first (0: there are none).
inline void tile_product(const uint16_t* w, int64_t pair, int64_t blocks, const uint16_t* const x[PARTS], int64_t step,
                         int64_t further, bool wide, float* y, int64_t ldy, float* y2) {
  asm volatile("" ::: "memory");  // and they do not know that tiles are loaded from memory
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t block = 0; block < blocks; block++) {
    const char* b = (const char*)w + block * TILE * pair;
    _tile_loadd(6, b, pair);
    if (wide) _tile_loadd(7, b + 64, pair);
    for (int part = 0; part < PARTS; part++) {
      const char* a = (const char*)(x[part] + block * TILE_INPUTS);
      _tile_loadd(4, a, step);
      _tile_dpbf16ps(0, 4, 6);
      if (wide) _tile_dpbf16ps(1, 4, 7);
      if (further) {
        _tile_loadd(5, a + further, step);
        _tile_dpbf16ps(2, 5, 6);
        if (wide) _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  ldy *= sizeof(float);
  _tile_stored(0, y, ldy);
  if (wide) _tile_stored(1, y + TILE, ldy);
  if (further) {
    _tile_stored(2, y2, ldy);
    if (wide) _tile_stored(3, y2 + TILE, ldy);
  }
}

#else

inline bool has_tiles() { return false; }

#endif

}  // namespace aizuchi
