// Matrices of float and their products, summed in float, one term after the other: the plainest arithmetic
// there is.
#pragma once

#include <cstddef>
#include <vector>

#include "storage.hpp"

namespace example {

struct Matrix {
  long rows = 0, cols = 0;
  std::vector<float> v;

  Matrix() = default;
  Matrix(long rows, long cols) : rows(rows), cols(cols), v(static_cast<std::size_t>(rows * cols)) {}
  float& at(long r, long c) { return v[static_cast<std::size_t>(r * cols + c)]; }
  float at(long r, long c) const { return v[static_cast<std::size_t>(r * cols + c)]; }
  const float* row(long r) const { return v.data() + r * cols; }
  float* row(long r) { return v.data() + r * cols; }
};

/// Rows held in the storage type from here on.
inline void store(Matrix& m) {
  for (float& value : m.v) value = stored(value);
}

/// x W: x [m, n], w points to [n, out].
inline Matrix product(const Matrix& x, const float* w, long out) {
  Matrix y(x.rows, out);
  for (long r = 0; r < x.rows; ++r)
    for (long i = 0; i < x.cols; ++i) {
      const float factor = operand(x.at(r, i));
      for (long c = 0; c < out; ++c) y.at(r, c) += factor * operand(w[i * out + c]);
    }
  return y;
}

/// x W^T: x [m, n], w points to [out, n].
inline Matrix product_transposed(const Matrix& x, const float* w, long out) {
  Matrix y(x.rows, out);
  for (long r = 0; r < x.rows; ++r)
    for (long c = 0; c < out; ++c) {
      float sum = 0.0f;
      for (long i = 0; i < x.cols; ++i) sum += operand(x.at(r, i)) * operand(w[c * x.cols + i]);
      y.at(r, c) = sum;
    }
  return y;
}

/// to += a^T b: a [m, n], b [m, out], to points to [n, out].
inline void add_outer(const Matrix& a, const Matrix& b, float* to) {
  for (long r = 0; r < a.rows; ++r)
    for (long i = 0; i < a.cols; ++i) {
      const float factor = operand(a.at(r, i));
      for (long c = 0; c < b.cols; ++c) to[i * b.cols + c] += factor * operand(b.at(r, c));
    }
}

inline void add_row(Matrix& m, const float* row) {
  for (long r = 0; r < m.rows; ++r)
    for (long c = 0; c < m.cols; ++c) m.at(r, c) += row[c];
}

/// to += the sum of m's rows.
inline void add_rows(const Matrix& m, float* to) {
  for (long r = 0; r < m.rows; ++r)
    for (long c = 0; c < m.cols; ++c) to[c] += m.at(r, c);
}

inline void add(Matrix& a, const Matrix& b) {
  for (std::size_t i = 0; i < a.v.size(); ++i) a.v[i] += b.v[i];
}

}  // namespace example
