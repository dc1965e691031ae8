#include "kernels/ops/cuda/library_products.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/ops/cuda/list_builder.h"
#include "kernels/ops/cuda/passes.h"

namespace muond {
namespace {

using elementwise::DiagonalItem;
using elementwise::DiagonalPhase;
using elementwise::ExtentOf;
using elementwise::FactorItem;
using elementwise::Launch;
using elementwise::ListBuilder;
using elementwise::MirrorItem;
using elementwise::PlaneOf;
using elementwise::ScatterItem;
using elementwise::Scratch;
using elementwise::TilesOf;

// The scratch's sums hold, in floats: factors of every product, then diagonals.
constexpr size_t kScratchFloats = sizeof(Scratch::sum) / (sizeof(float));

cudaDataType_t TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return CUDA_R_32F;
    case DType::kBFloat16:
      return CUDA_R_16BF;
    case DType::kFloat16:
      return CUDA_R_16F;
  }
  __builtin_unreachable();
}

int64_t Depth(const Product& product) {
  return product.a_transposed ? product.a.rows : product.a.cols;
}

// The largest power of two, up to 256, that divides every address the library will see of this operand.
int AlignmentOf(const Matrix& matrix) {
  const auto bits = reinterpret_cast<uintptr_t>(matrix.data) |
                    static_cast<uintptr_t>(matrix.ld) * SizeOf(matrix.dtype) | uintptr_t{256};
  return static_cast<int>(bits & (~bits + 1));
}

bool HasDiagonal(const Product& product) {
  return product.diagonal != 0 || product.d2.data != nullptr;
}

absl::Status Check(const Product& p) {
  const int64_t m = p.a_transposed ? p.a.cols : p.a.rows, k = Depth(p);
  const int64_t n = p.b_transposed ? p.b.rows : p.b.cols, k2 = p.b_transposed ? p.b.cols : p.b.rows;
  const bool c = p.c.data != nullptr, d2 = p.d2.data != nullptr;
  auto same = [](const Matrix& a, const Matrix& b) {
    return a.rows == b.rows && a.cols == b.cols && a.dtype == b.dtype;
  };
  if (k != k2 || p.d.rows != m || p.d.cols != n || p.a.dtype != p.b.dtype ||
      (c && !same(p.c, p.d)) || (d2 && !same(p.d2, p.d)) ||
      ((p.symmetric || HasDiagonal(p)) && m != n)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("product of %d x %d and %d x %d into %d x %d (c %d x %d, d2 %d x %d): "
                        "shapes or dtypes do not fit",
                        m, k, k2, n, p.d.rows, p.d.cols, p.c.rows, p.c.cols, p.d2.rows, p.d2.cols));
  }
  return absl::OkStatus();
}

}  // namespace

// Row-major D = op(A) op(B) is, to a column-major library, D^T = op(B)^T op(A)^T: the operands trade places.
struct LibraryProducts::Plan {
  explicit Plan(const CublasLt& owner) : library(owner) {}
  ~Plan() {
    for (cublasLtMatrixLayout_t layout : {a, b, c, d}) {
      if (layout != nullptr) (void)library.layout_destroy(layout);
    }
    if (desc != nullptr) (void)library.desc_destroy(desc);
  }

  const CublasLt& library;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr, d = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};
};

LibraryProducts::LibraryProducts(CudaDevice& device) : device_(device) {}

LibraryProducts::~LibraryProducts() {
  if (handle_ == nullptr) return;
  device_.MakeCurrent();
  (void)library_->destroy(handle_);
}

absl::Status LibraryProducts::Start() {
  if (handle_ != nullptr) return absl::OkStatus();
  absl::StatusOr<const CublasLt*> library = LoadCublasLt();
  if (!library.ok()) return library.status();
  device_.MakeCurrent();
  library_ = *library;
  return CublasStatus(*library_, library_->create(&handle_), "creating a handle");
}

absl::StatusOr<const LibraryProducts::Plan*> LibraryProducts::PlanFor(const Product& p) {
  const Matrix& c = p.c.data != nullptr ? p.c : p.d;
  const Key key{p.d.rows,
                p.d.cols,
                Depth(p),
                p.a.ld,
                p.b.ld,
                c.ld,
                p.d.ld,
                p.a_transposed + 2 * p.b_transposed + 4 * (p.c.data != nullptr),
                static_cast<int>(p.a.dtype) * 16 + static_cast<int>(p.d.dtype),
                AlignmentOf(p.a) * 1024 + AlignmentOf(p.b),
                AlignmentOf(c) * 1024 + AlignmentOf(p.d)};
  std::unique_ptr<Plan>& plan = plans_[key];
  if (plan != nullptr) return plan.get();
  auto made = std::make_unique<Plan>(*library_);
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  auto check = [&status](cublasStatus_t next) {
    if (status == CUBLAS_STATUS_SUCCESS) status = next;
  };
  auto set = [&](cublasLtMatmulDescAttributes_t attribute, auto value) {
    check(library_->desc_set(made->desc, attribute, &value, sizeof(value)));
  };
  check(library_->desc_create(&made->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  if (status == CUBLAS_STATUS_SUCCESS) {
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_POINTER_MODE, CUBLASLT_POINTER_MODE_DEVICE);
  }
  auto layout = [&](cublasLtMatrixLayout_t* out, const Matrix& matrix) {
    check(library_->layout_create(out, TypeOf(matrix.dtype), static_cast<uint64_t>(matrix.cols),
                                  static_cast<uint64_t>(matrix.rows), matrix.ld));
  };
  layout(&made->a, p.b);
  layout(&made->b, p.a);
  layout(&made->c, c);
  layout(&made->d, p.d);
  cublasLtMatmulPreference_t preference = nullptr;
  check(library_->preference_create(&preference));
  auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    if (status == CUBLAS_STATUS_SUCCESS) {
      check(library_->preference_set(preference, attribute, &value, sizeof(value)));
    }
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{0});
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(AlignmentOf(p.b)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(AlignmentOf(p.a)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(AlignmentOf(c)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(AlignmentOf(p.d)));
  cublasLtMatmulHeuristicResult_t found = {};
  int count = 0;
  if (status == CUBLAS_STATUS_SUCCESS) {
    check(library_->heuristic(handle_, made->desc, made->a, made->b, made->c, made->d, preference,
                              1, &found, &count));
  }
  if (status == CUBLAS_STATUS_SUCCESS && count == 0) status = CUBLAS_STATUS_NOT_SUPPORTED;
  made->algorithm = found.algo;
  if (preference != nullptr) (void)library_->preference_destroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS) {
    return CublasStatus(*library_, status,
                        absl::StrFormat("a product of %d x %d x %d", p.d.rows, p.d.cols, Depth(p)));
  }
  plan = std::move(made);
  return plan.get();
}

absl::Status LibraryProducts::Enqueue(CudaStream& stream, absl::Span<const Product> products,
                                      Scratch* scratch) {
  struct Call {
    const Plan* plan;
    const void *a, *b, *c;
    void* d;
  };
  struct Work {
    std::vector<FactorItem> factors;
    std::vector<Call> calls;
    std::vector<MirrorItem> mirrors;
    std::vector<Launch> copies;
    std::vector<DiagonalItem> diagonals;
  };
  float* const floats = reinterpret_cast<float*>(scratch->sum);
  size_t first = 0;
  while (first < products.size()) {
    auto work = std::make_unique<Work>();
    // As many products as the scratch holds factors and diagonals for.
    size_t end = first, used = 0;
    while (end < products.size()) {
      if (absl::Status status = Check(products[end]); !status.ok()) return status;
      const size_t more =
          2 + (HasDiagonal(products[end]) ? static_cast<size_t>(products[end].d.rows) : 0);
      if (end > first && used + more > kScratchFloats) break;
      used += more;
      ++end;
    }
    const absl::Span<const Product> part = products.subspan(first, end - first);
    const int count = static_cast<int>(part.size());
    float* next_sums = floats + 2 * count;
    ListBuilder<ScatterItem> copies;
    for (int i = 0; i < count; ++i) {
      const Product& p = part[i];
      work->factors.push_back({p.alpha_divisor, p.alpha, p.c.data != nullptr ? p.beta : 0,
                               p.divisor_floor, p.divisor_power});
      if (p.symmetric) {
        work->mirrors.push_back({static_cast<char*>(p.d.data), p.d.rows, p.d.ld,
                                 static_cast<int32_t>(SizeOf(p.d.dtype)),
                                 static_cast<char*>(p.d2.data), p.d2.ld, 0});
      } else if (p.d2.data != nullptr) {
        const ScatterItem copy = {ExtentOf(p.d.rows, p.d.cols), PlaneOf(p.d), PlaneOf(p.d2)};
        if (absl::Status status = copies.Add(copy, TilesOf(copy.extent.elements), {}, {});
            !status.ok())
          return status;
      }
      if (!HasDiagonal(p)) continue;
      work->diagonals.push_back({.a = static_cast<const char*>(p.a.data),
                                 .b = static_cast<const char*>(p.b.data),
                                 .c = static_cast<const char*>(p.c.data),
                                 .d = p.diagonal != 0 ? static_cast<char*>(p.d.data) : nullptr,
                                 .d2 = static_cast<char*>(p.d2.data),
                                 .a_row = p.a_transposed ? 1 : p.a.ld,
                                 .a_k = p.a_transposed ? p.a.ld : 1,
                                 .b_k = p.b_transposed ? 1 : p.b.ld,
                                 .b_col = p.b_transposed ? p.b.ld : 1,
                                 .c_ld = p.c.ld,
                                 .d_ld = p.d.ld,
                                 .d2_ld = p.d2.ld,
                                 .n = static_cast<int32_t>(p.d.rows),
                                 .k = static_cast<int32_t>(Depth(p)),
                                 .alpha = floats + i,
                                 .beta = floats + count + i,
                                 .diagonal = static_cast<float>(p.diagonal),
                                 .diagonal2 = static_cast<float>(p.diagonal2),
                                 .sums = next_sums,
                                 .input = p.a.dtype,
                                 .output = p.d.dtype,
                                 .first_block = 0});
      next_sums += p.d.rows;
    }
    work->copies = copies.Take();
    for (const Product& p : part) {
      absl::MutexLock lock(&mutex_);
      if (absl::Status status = Start(); !status.ok()) return status;
      absl::StatusOr<const Plan*> plan = PlanFor(p);
      if (!plan.ok()) return plan.status();
      work->calls.push_back(
          {*plan, p.b.data, p.a.data, p.c.data != nullptr ? p.c.data : p.d.data, p.d.data});
    }
    stream.Enqueue(
        "library products", [this, work = std::move(work), floats, count](cudaStream_t s) {
          cudaError_t error = elementwise::LaunchFactors(s, work->factors.data(), count, floats);
          auto diagonals = [&](DiagonalPhase phase) {
            return elementwise::LaunchDiagonals(s, work->diagonals.data(),
                                                static_cast<int>(work->diagonals.size()), phase);
          };
          if (error == cudaSuccess) error = diagonals(DiagonalPhase::kSum);
          if (error != cudaSuccess) return error;
          absl::MutexLock lock(&mutex_);
          for (int i = 0; i < count; ++i) {
            const Call& call = work->calls[i];
            const Plan& plan = *call.plan;
            const cublasStatus_t status = library_->matmul(
                handle_, plan.desc, floats + i, call.a, plan.a, call.b, plan.b, floats + count + i,
                call.c, plan.c, call.d, plan.d, &plan.algorithm, nullptr, 0, s);
            if (status != CUBLAS_STATUS_SUCCESS) return cudaErrorNotSupported;
          }
          error = elementwise::LaunchMirror(s, work->mirrors.data(),
                                            static_cast<int>(work->mirrors.size()));
          for (const Launch& copy : work->copies) {
            if (error != cudaSuccess) return error;
            error = elementwise::WithList(copy, [&](const auto& list) {
              return elementwise::LaunchScatter(s, list, copy.tiles);
            });
          }
          return error == cudaSuccess ? diagonals(DiagonalPhase::kPlace) : error;
        });
    first = end;
  }
  return absl::OkStatus();
}

}  // namespace muond
