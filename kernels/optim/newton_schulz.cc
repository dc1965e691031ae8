#include "kernels/optim/newton_schulz.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace muond {
namespace {

constexpr uint64_t kAlignment = 256;  // bytes: what a copy engine and a cache line want

constexpr int kGramSquares = 5;      // R, Z, S, Q, Q'
constexpr int kStandardSquares = 2;  // A, Z

int64_t Side(const Matrix& x) { return std::min(x.rows, x.cols); }
int64_t PaddedLd(int64_t cols) { return (cols + 15) / 16 * 16; }
uint64_t AlignedBytes(int64_t rows, int64_t cols, DType dtype) {
  const uint64_t bytes =
      static_cast<uint64_t>(rows) * static_cast<uint64_t>(PaddedLd(cols)) * SizeOf(dtype);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Hands out matrices of a workspace, one after the other.
class Carver {
 public:
  explicit Carver(void* workspace) : next_(static_cast<char*>(workspace)) {}
  Matrix Take(int64_t rows, int64_t cols, DType dtype) {
    const Matrix matrix{next_, rows, cols, PaddedLd(cols), dtype};
    next_ += AlignedBytes(rows, cols, dtype);
    return matrix;
  }

 private:
  char* next_;
};

// What the iterates X carry as a factor between products: an orthogonal X has elements of 1 / sqrt(l), and those of its small
// singular values would fall below what fp16 can hold. With a power of two near sqrt(l) they are about 1; exact otherwise.
double ScaleOf(const Matrix& x) {
  if (x.dtype != DType::kFloat16) return 1;
  double scale = 1;
  while (4 * scale * scale <= static_cast<double>(std::max(x.rows, x.cols)) && scale < 4096)
    scale *= 2;
  return scale;
}

// The products of many matrices, stage by stage; the memory of one list serves the next.
class Stages {
 public:
  void Clear() {
    for (std::vector<Product>& stage : stages_) stage.clear();
  }
  std::vector<Product>& operator[](size_t stage) {
    if (stage >= stages_.size()) stages_.resize(stage + 1);
    return stages_[stage];
  }
  // All products in order, and where each stage ends among them.
  void Join() {
    products_.clear();
    ends_.clear();
    for (const std::vector<Product>& stage : stages_) {
      if (stage.empty()) break;
      products_.insert(products_.end(), stage.begin(), stage.end());
      ends_.push_back(products_.size());
    }
  }
  absl::Span<const Product> products() const { return products_; }
  absl::Span<const size_t> ends() const { return ends_; }

 private:
  std::vector<std::vector<Product>> stages_;
  std::vector<Product> products_;
  std::vector<size_t> ends_;
};

// The products of one matrix, in stages: the products of a stage are independent of each other.
// Whether a I is part of Z ("folded"): fp32 has the bits for it and saves reading a second operand; in 16 bits the
// sum would lose what Z has to say, so there a stays apart, in beta.
class Program {
 public:
  // Adds them to `stages`.
  Program(const NewtonSchulzTask& task, NewtonSchulzAlgorithm algorithm, Carver& carver,
          Stages& stages)
      : task_(task),
        stages_(stages),
        folded_(task.x.dtype == DType::kFloat32),
        wide_(task.x.rows <= task.x.cols),
        scale_(ScaleOf(task.x)),
        x_(task.x) {
    if (task.x.rows == 0 || task.x.cols == 0 || task.table->steps.empty()) return;
    other_ = carver.Take(x_.rows, x_.cols, x_.dtype);
    if (algorithm == NewtonSchulzAlgorithm::kGram) {
      Gram(carver);
    } else {
      Standard(carver);
    }
  }

  const Matrix& result() const { return x_; }

 private:
  void Standard(Carver& carver) {
    const Matrix a = Square(carver);
    const Matrix z = Square(carver);
    const std::vector<Coefficients>& rows = task_.table->steps;
    for (size_t k = 0; k < rows.size(); ++k) {
      Stage(OfX(a));
      Stage(Polynomial(rows[k], a, z));
      Stage(TimesX(z, Rest(rows[k]), k + 1 == rows.size()));
    }
  }

  void Gram(Carver& carver) {
    Matrix r = Square(carver), z = Square(carver), s = Square(carver), q = Square(carver),
           spare = Square(carver);
    const std::vector<Coefficients>& rows = task_.table->steps;
    bool has_q = false;
    Stage(OfX(r));
    for (size_t k = 0; k < rows.size(); ++k) {
      const bool restarts =
          k + 1 < rows.size() &&
          GramRestartsBefore(static_cast<int>(k) + 1, Side(task_.x), *task_.table, task_.x.dtype);
      const bool segment_ends = restarts || k + 1 == rows.size();
      Product polynomial = Polynomial(rows[k], r, z);
      if (!has_q && !folded_) {
        polynomial.d2 = q;
        polynomial.diagonal2 = rows[k].a;
      }
      Stage(polynomial);
      if (has_q) stages_[stage_].push_back(SquareProduct(q, z, spare, Rest(rows[k])));
      if (!segment_ends) stages_[stage_].push_back(SquareProduct(r, z, s, Rest(rows[k])));
      if (has_q || !segment_ends) ++stage_;
      if (!segment_ends) Stage(SquareProduct(z, s, r, Rest(rows[k]), s));
      if (has_q) {
        std::swap(q, spare);
      } else if (folded_) {
        std::swap(q, z);  // the first Q is Z itself
      }
      has_q = true;
      if (segment_ends) Stage(TimesX(q, 0, !restarts));
      if (restarts) {
        Stage(OfX(r));
        has_q = false;
      }
    }
  }

  // Squares stay among the products of this list, so that one half of them need not be stored.
  Matrix Square(Carver& carver) {
    Matrix square = carver.Take(Side(task_.x), Side(task_.x), task_.x.dtype);
    square.half = true;
    return square;
  }
  double Rest(const Coefficients& row) const { return folded_ ? 0 : row.a; }
  // A stage of its own.
  void Stage(const Product& product) { stages_[stage_++].push_back(product); }

  // D <- X X^T, over the short side.
  Product OfX(const Matrix& d) const {
    Product product{.d = d, .a = x_, .b = x_};
    (wide_ ? product.b_transposed : product.a_transposed) = true;
    product.symmetric = true;
    if (normalized_) product.alpha = 1 / (scale_ * scale_);
    Divide(product, 2);
    return product;
  }

  // Z <- b A + c A^2 (+ a I).
  Product Polynomial(const Coefficients& row, const Matrix& a, const Matrix& z) const {
    Product product = SquareProduct(a, a, z, row.b, a);
    product.alpha = row.c;
    product.diagonal = folded_ ? row.a : 0;
    return product;
  }

  // D <- A B + beta C of polynomials in one symmetric matrix, which commute: so it is symmetric. C is A when not named.
  static Product SquareProduct(const Matrix& a, const Matrix& b, const Matrix& d, double beta,
                               const std::optional<Matrix>& c = std::nullopt) {
    Product product{.d = d, .a = a, .b = b};
    if (beta != 0) product.c = c.value_or(a);
    product.b_transposed = true;
    product.symmetric = true;
    product.beta = beta;
    return product;
  }

  // X <- Q X + beta X, into the other place for X: scaled as long as products follow.
  Product TimesX(const Matrix& q, double beta, bool last) {
    Product product{.d = other_, .a = wide_ ? q : x_, .b = wide_ ? x_ : q};
    product.b_transposed = !wide_;
    if (beta != 0) product.c = x_;
    product.alpha = (last ? 1 : scale_) / (normalized_ ? scale_ : 1);
    product.beta = beta * product.alpha;
    Divide(product, 1);
    normalized_ = true;
    std::swap(x_, other_);
    return product;
  }

  // As long as X is the direction itself, whoever multiplies by it divides by its norm.
  void Divide(Product& product, int power) const {
    if (normalized_) return;
    product.alpha_divisor = task_.norm;
    product.divisor_power = power;
  }

  const NewtonSchulzTask& task_;
  Stages& stages_;
  size_t stage_ = 0;
  const bool folded_;
  const bool wide_;
  const double scale_;
  Matrix x_, other_;
  bool normalized_ = false;
};

template <typename Choose>
void Run(Choose choose, Ops& ops, Stream& stream, absl::Span<const NewtonSchulzTask> tasks,
         void* workspace, std::vector<Matrix>* results) {
  thread_local Stages stages;
  stages.Clear();
  results->clear();
  Carver carver(workspace);
  for (const NewtonSchulzTask& task : tasks) {
    results->push_back(Program(task, choose(task), carver, stages).result());
  }
  stages.Join();
  ops.MultiplyPhases(stream, stages.products(), stages.ends());
}

constexpr int64_t kSmallSide = 512;

// A first a above jordan's 3.4445 throughout.
bool IsFast(const CoefficientTable& table) {
  constexpr double kMild = 3.5;
  return std::any_of(table.steps.begin(), table.steps.end(),
                     [](const Coefficients& row) { return row.a > kMild; });
}

NewtonSchulzAlgorithm ChosenFor(const NewtonSchulzTask& task) {
  return ChooseAlgorithm(task.x.rows, task.x.cols, *task.table, task.x.dtype);
}

}  // namespace

// fp32: an error of R's eigenvalues grows by a^2 a step where they are small; five steps of the fastest table bring 2^-24
// to 0.05 of what is not yet orthogonal, and nothing to what is.
// 16-bit: every three steps, and with a fast table before the third as well. Error in norm over that of torch's bfloat16, worst of
// a zoo of spectra on matrices whose mass lies in few places (12 reflections from diagonal):
//   restart before step      2      3     2 and 3   (counted from 0)
//   jordan                 1.1    0.43    0.20
//   you5                   1.7     115    0.27
//   polar_express_105      2.6     4.5    0.22
//   cans                   2.4      46    0.7
// One restart before step 2 loses what is rank deficient, one before step 3 what is nearly of rank one: there the rounding of
// R0 turns the singular vector by a^3 2^-12, and an element of such a matrix can be further off than torch's when it is small. So
// small matrices, which cost little, restart twice.
bool GramRestartsBefore(int step, int64_t side, const CoefficientTable& table, DType iterate) {
  if (iterate == DType::kFloat32) return step > 0 && step % 5 == 0;
  return (step > 0 && step % 3 == 0) || (step == 2 && (IsFast(table) || side < kSmallSide));
}

NewtonSchulzAlgorithm ChooseAlgorithm(int64_t rows, int64_t cols, const CoefficientTable& table,
                                      DType iterate) {
  const int64_t side = std::min(rows, cols);
  const int64_t length = std::max(rows, cols);
  if (4 * length < 5 * side) return NewtonSchulzAlgorithm::kStandard;  // l/s < 1.25
  if (iterate != DType::kFloat32 && side < kSmallSide && IsFast(table)) {
    return NewtonSchulzAlgorithm::kStandard;  // see GramRestartsBefore
  }
  const double gram = NewtonSchulzFlop(rows, cols, table, NewtonSchulzAlgorithm::kGram, iterate);
  const double standard =
      NewtonSchulzFlop(rows, cols, table, NewtonSchulzAlgorithm::kStandard, iterate);
  return gram < standard ? NewtonSchulzAlgorithm::kGram : NewtonSchulzAlgorithm::kStandard;
}

double NewtonSchulzFlop(int64_t rows, int64_t cols, int steps, NewtonSchulzAlgorithm algorithm,
                        DType iterate) {
  const auto table = FindCoefficientTable("jordan", steps);
  return table.ok() ? NewtonSchulzFlop(rows, cols, *table, algorithm, iterate) : 0;
}

double NewtonSchulzFlop(int64_t rows, int64_t cols, const CoefficientTable& table,
                        NewtonSchulzAlgorithm algorithm, DType iterate) {
  const int steps = static_cast<int>(table.steps.size());
  const double side = static_cast<double>(std::min(rows, cols));
  const double length = static_cast<double>(std::max(rows, cols));
  const double of_x = side * side * length;  // a triangle of X X^T
  const double square = side * side * side;  // a triangle of s x s times s x s
  const double times_x = 2 * side * side * length;
  if (algorithm == NewtonSchulzAlgorithm::kStandard) return steps * (of_x + square + times_x);
  double flop = 0;
  bool segment_starts = true;
  for (int k = 0; k < steps; ++k) {
    const bool segment_ends =
        k + 1 == steps || GramRestartsBefore(k + 1, std::min(rows, cols), table, iterate);
    if (segment_starts) flop += of_x;
    flop += square;                         // Z
    if (!segment_starts) flop += square;    // Q
    if (!segment_ends) flop += 2 * square;  // S, R
    if (segment_ends) flop += times_x;
    segment_starts = segment_ends;
  }
  return flop;
}

uint64_t NewtonSchulzWorkspaceBytes(const Ops&, absl::Span<const NewtonSchulzTask> tasks) {
  uint64_t bytes = 0;
  for (const NewtonSchulzTask& task : tasks) {
    const bool gram = ChosenFor(task) == NewtonSchulzAlgorithm::kGram;
    bytes += AlignedBytes(task.x.rows, task.x.cols, task.x.dtype) +
             (gram ? kGramSquares : kStandardSquares) *
                 AlignedBytes(Side(task.x), Side(task.x), task.x.dtype);
  }
  return bytes;
}

void NewtonSchulz(Ops& ops, Stream& stream, absl::Span<const NewtonSchulzTask> tasks,
                  void* workspace, std::vector<Matrix>* results) {
  Run(&ChosenFor, ops, stream, tasks, workspace, results);
}

std::vector<Matrix> NewtonSchulz(Ops& ops, Stream& stream, absl::Span<const NewtonSchulzTask> tasks,
                                 void* workspace) {
  std::vector<Matrix> results;
  NewtonSchulz(ops, stream, tasks, workspace, &results);
  return results;
}

std::vector<Matrix> NewtonSchulzWith(NewtonSchulzAlgorithm algorithm, Ops& ops, Stream& stream,
                                     absl::Span<const NewtonSchulzTask> tasks, void* workspace) {
  std::vector<Matrix> results;
  Run([algorithm](const NewtonSchulzTask&) { return algorithm; }, ops, stream, tasks, workspace,
      &results);
  return results;
}

}  // namespace muond
