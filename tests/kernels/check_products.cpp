// Checks the products and the recurrence of one build against plain loops in double, without PyTorch: for
// builds that this machine can only emulate. Prints a digest of the integer products, which every build has
// to share; exits with 1 and a line for each check that fails. Compile with -DSTORED=float.
#include <cstdio>
#include <random>

#include "../../src/sharnn/ops/recurrence.cpp"

namespace {

int failures = 0;

void check(bool holds, const char *what, isize lanes, isize dim) {
  if (holds || ++failures > 20) return;  // more say nothing new
  std::printf("wrong: %s, %lld lanes, width %lld\n", what, (long long)lanes, (long long)dim);
}

std::vector<float> random_floats(size_t count, unsigned seed) {
  std::mt19937 generator(seed);  // its numbers are the same everywhere, those of distributions are not
  std::vector<float> x(count);
  for (float &v : x) v = (int(generator() >> 8) - (1 << 23)) * (1.0f / (1 << 23));
  return x;
}

// A matrix [rows, columns] in panels, and what it holds once it is rounded to the kind.
struct Packed {
  std::vector<char> bytes;
  std::vector<float> scale, exact;
  std::vector<int32_t> sum;
  Matrix matrix;

  Packed(const std::vector<float> &weight, isize rows, isize columns, Kind kind)
      : scale(rows), exact(weight), sum(rows) {
    const isize size = kind == FLOAT ? 4 : kind == BFLOAT16 ? 2 : 1, each = LINE_BYTES / WIDTH / size;
    const isize lines = (columns + each - 1) / each;
    bytes.assign(rows / WIDTH * lines * LINE_BYTES + LINE_BYTES, 0);
    char *start = bytes.data() + (-reinterpret_cast<uintptr_t>(bytes.data())) % LINE_BYTES;
    for (isize row = 0; row < rows; ++row) {
      float largest = 0;
      for (isize k = 0; k < columns; ++k) largest = std::max(largest, std::fabs(weight[row * columns + k]));
      scale[row] = largest / 127;
      for (isize k = 0; k < columns; ++k) {
        float &x = exact[row * columns + k];
        char *at = start + (row / WIDTH * lines + k / each) * LINE_BYTES + (row % WIDTH * each + k % each) * size;
        const bfloat16 half = rounded(x);
        const int8_t integer = int8_t(std::nearbyint(x / scale[row]));
        if (kind == BFLOAT16) x = widened(half);
        if (kind == INT8) x = integer, sum[row] += integer;
        std::memcpy(at, kind == FLOAT ? (void *)&x : kind == BFLOAT16 ? (void *)&half : (void *)&integer, size);
      }
    }
    matrix = {start, scale.data(), sum.data(), nullptr, rows, columns, kind};
  }
};

uint64_t digest = 14695981039346656037u;  // FNV-1a
void add_to_digest(int32_t value) {
  for (int i = 0; i < 4; ++i) digest = (digest ^ uint8_t(value >> 8 * i)) * 1099511628211u;
}

void check_products(isize lanes, isize rows, isize columns, Kind kind) {
  const Packed packed(random_floats(rows * columns, 1), rows, columns, kind);
  const std::vector<float> x = random_floats(lanes * columns, 2);
  std::vector<float> together(lanes * rows), alone(rows);
  multiply_add(packed.matrix, x.data(), lanes, 0, rows, together.data());
  for (isize lane = 0; lane < lanes; ++lane) {
    const float *own = &x[lane * columns];
    std::fill(alone.begin(), alone.end(), 0.0f);
    multiply_add(packed.matrix, own, 1, 0, rows, alone.data());
    check(std::equal(alone.begin(), alone.end(), &together[lane * rows]), "a lane depends on others", lanes, columns);
    float largest = 0;
    for (isize k = 0; k < columns; ++k) largest = std::max(largest, std::fabs(own[k]));
    for (isize row = 0; row < rows; ++row) {
      double expected = 0, size = 0;
      for (isize k = 0; k < columns; ++k) {
        double value = own[k];
#if defined(__AVX512BF16__)
        if (kind == BFLOAT16) value = widened(rounded(own[k]));
#endif
        if (kind == INT8) value = std::nearbyint(own[k] * (127 / largest));
        expected += value * packed.exact[row * columns + k];
        size += std::fabs(value * packed.exact[row * columns + k]);
      }
      if (kind == INT8) {
        const float unit = packed.scale[row] * (largest / 127);
        add_to_digest(int32_t(std::nearbyint(alone[row] / unit)));
        check(std::nearbyint(alone[row] / unit) == expected, "an integer product", lanes, columns);
      } else {
        check(std::fabs(alone[row] - expected) <= 1e-5 * size + 1e-6, kind == FLOAT ? "a float product" : "a bfloat16 product",
              lanes, columns);
      }
    }
  }
}

// Integers of ±127 alone add up to the most that there can be, in 16 bits of two neighbours too.
void check_extremes(float sign) {
  const isize columns = 1024;
  std::vector<float> weight(WIDTH * columns), x(columns, sign);
  for (size_t i = 0; i < weight.size(); ++i) weight[i] = i / columns % 2 ? 1.0f : -1.0f;
  const Packed packed(weight, WIDTH, columns, INT8);
  std::vector<float> out(WIDTH);
  multiply_add(packed.matrix, x.data(), 1, 0, WIDTH, out.data());
  for (isize row = 0; row < WIDTH; ++row)
    check(std::fabs(out[row] - sign * (row % 2 ? columns : -columns)) < 1e-2, "a product of extremes", 1, columns);
}

double plain_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Compare the recurrence with plain loops, and its gradient with differences of Σ hidden.
void check_recurrence(isize lanes, isize tokens, isize dim) {
  std::vector<float> weight = random_floats(4 * dim * dim, 3);
  for (float &w : weight) w /= std::sqrt(float(dim));
  const std::vector<float> inputs = random_floats(tokens * lanes * 4 * dim, 4);
  const isize size = lanes * dim;
  const auto sum_of_hiddens = [&](const std::vector<float> &given, std::vector<double> *hiddens) {
    std::vector<double> h(size), c(size), next(size);
    double total = 0;
    for (isize t = 0; t < tokens; ++t) {
      for (isize lane = 0; lane < lanes; ++lane)
        for (isize d = 0; d < dim; ++d) {
          double z[4];
          for (isize gate = 0; gate < 4; ++gate) {
            z[gate] = given[((t * lanes + lane) * 4 + gate) * dim + d];
            for (isize k = 0; k < dim; ++k) z[gate] += weight[(gate * dim + d) * dim + k] * h[lane * dim + k];
          }
          double &cell = c[lane * dim + d];
          cell = plain_sigmoid(z[1]) * cell + plain_sigmoid(z[0]) * std::tanh(z[2]);
          total += next[lane * dim + d] = plain_sigmoid(z[3]) * std::tanh(cell);
        }
      h = next;
      if (hiddens) hiddens->insert(hiddens->end(), h.begin(), h.end());
    }
    return total;
  };
  std::vector<double> expected;
  sum_of_hiddens(inputs, &expected);
  std::vector<float> gates = inputs, cells((tokens + 1) * size), hiddens((tokens + 1) * size);
  lstm_forward(weight.data(), gates.data(), cells.data(), hiddens.data(), lanes, tokens, dim, 1);
  for (isize i = 0; i < tokens * size; ++i)
    check(std::fabs(hiddens[size + i] - expected[i]) < 1e-5, "a hidden state", lanes, dim);
  std::vector<float> ones(tokens * size, 1.0f), cell_grad(size), later(size), grads(gates.size());
  lstm_backward(weight.data(), gates.data(), cells.data(), ones.data(), cell_grad.data(), later.data(), grads.data(),
                lanes, tokens, dim, 1);
  for (size_t i = 0; i < grads.size(); i += grads.size() / 7 + 1) {
    std::vector<float> up = inputs, down = inputs;
    up[i] += 1e-2f, down[i] -= 1e-2f;
    const double slope = (sum_of_hiddens(up, nullptr) - sum_of_hiddens(down, nullptr)) / (double(up[i]) - down[i]);
    check(std::fabs(grads[i] - slope) < 1e-3, "a gradient", lanes, dim);
  }
}

}  // namespace

int main() {
  for (const Kind kind : {FLOAT, BFLOAT16, INT8})
    for (const isize columns : {1, 5, 40, 64})
      for (isize lanes = 1; lanes <= 17; ++lanes) check_products(lanes, 6 * WIDTH, columns, kind);
  for (const float sign : {1.0f, -1.0f}) check_extremes(sign);
  for (const isize dim : {8, 16, 40})
    for (const isize lanes : {1, 5, 7}) check_recurrence(lanes, 4, dim);
  std::printf("integers %016llx\n", (unsigned long long)digest);
  return failures > 0;
}
