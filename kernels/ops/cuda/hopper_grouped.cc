#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "kernels/ops/cuda/hopper_products.h"
#include "kernels/ops/cuda/hopper_program.h"
#include "kernels/ops/cuda/hopper_schedule.h"
#include "kernels/ops/cuda/products.h"

namespace muond {
namespace {

using hopper::Dependency;
using hopper::ProductRecord;

absl::Status CudaStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string text = absl::StrFormat("%s: %s", what, cudaGetErrorString(error));
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(text)
                                            : absl::InternalError(text);
}

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                 const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

absl::Status CheckOperand(const Matrix& m, const char* name, DType dtype) {
  if (m.dtype != dtype || (dtype != DType::kFloat16 && dtype != DType::kBFloat16)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "product operand %s: dtype %d beside %d; grouped products take one 16-bit dtype", name,
        static_cast<int>(m.dtype), static_cast<int>(dtype)));
  }
  if (m.rows <= 0 || m.cols <= 0 || m.rows > INT32_MAX / 2 || m.cols > INT32_MAX / 2 ||
      m.ld < m.cols || m.ld % 8 != 0 || reinterpret_cast<uintptr_t>(m.data) % 16 != 0 ||
      m.data == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("product operand %s: %d x %d, ld %d at %p; ld must be a multiple of 8 and "
                        "the address of 16",
                        name, m.rows, m.cols, m.ld, m.data));
  }
  return absl::OkStatus();
}

absl::Status CheckProduct(const Product& p) {
  const DType dtype = p.d.dtype;
  absl::Status status = CheckOperand(p.d, "D", dtype);
  if (status.ok()) status = CheckOperand(p.a, "A", dtype);
  if (status.ok()) status = CheckOperand(p.b, "B", dtype);
  if (status.ok() && p.c.data != nullptr) status = CheckOperand(p.c, "C", dtype);
  if (status.ok() && p.d2.data != nullptr) status = CheckOperand(p.d2, "D2", dtype);
  if (!status.ok()) return status;
  const int64_t m = p.a_transposed ? p.a.cols : p.a.rows, ka = p.a_transposed ? p.a.rows : p.a.cols;
  const int64_t n = p.b_transposed ? p.b.rows : p.b.cols, kb = p.b_transposed ? p.b.cols : p.b.rows;
  if (p.d.rows != m || p.d.cols != n || ka != kb ||
      (p.c.data != nullptr && (p.c.rows != m || p.c.cols != n)) || (p.symmetric && m != n)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "product: D %d x %d, op(A) %d x %d, op(B) %d x %d, C %d x %d, symmetric %d do not fit",
        p.d.rows, p.d.cols, m, ka, kb, n, p.c.rows, p.c.cols, p.symmetric));
  }
  if (p.d2.data != nullptr && (!p.symmetric || p.d2.rows != m || p.d2.cols != n)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "product: D2 %d x %d beside a %s D %d x %d; D2 goes with a symmetric D of its size",
        p.d2.rows, p.d2.cols, p.symmetric ? "symmetric" : "general", m, n));
  }
  if ((p.diagonal != 0 || p.diagonal2 != 0) && m != n) {
    return absl::InvalidArgumentError("product: a diagonal needs a square D");
  }
  // What the kernel's three loops can read: half B, or B as [k, n], behind half A; and a half C below the diagonal only.
  if ((p.a.half && p.a.rows != p.a.cols) || (p.b.half && p.b.rows != p.b.cols) ||
      (p.d.half && !p.symmetric) || (p.c.half && !p.symmetric) ||
      (p.d2.data && p.d2.half != p.d.half) ||
      (p.a.half && !(p.b.half && p.symmetric) && (p.b.half || p.b_transposed)) ||
      (p.b.half && !p.a.half && p.a_transposed)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "product: half-stored operands (A %d, B %d, C %d, D %d, D2 %d) of a %s product do not fit",
        p.a.half, p.b.half, p.c.half, p.d.half, p.d2.half, p.symmetric ? "symmetric" : "general"));
  }
  if (p.a_transposed && p.b_transposed) {
    return absl::InvalidArgumentError("product: A^T B^T is not provided; give B as stored");
  }
  if (p.d.data == p.a.data || p.d.data == p.b.data || p.d2.data == p.a.data ||
      p.d2.data == p.b.data) {
    return absl::InvalidArgumentError("product: D may equal C, but neither A nor B");
  }
  return absl::OkStatus();
}

class HopperProgram final : public GroupedProducts::Program {
 public:
  ~HopperProgram() override { cudaFree(memory); }
  uint64_t device_bytes() const override { return bytes; }

  void* memory = nullptr;
  uint64_t bytes = 0;
  hopper::Launch launch{};
  bool bf16 = false;
};

// One tensor map an operand: boxes of 64 x 64 elements serve every role it can have.
class TensorMaps {
 public:
  explicit TensorMaps(EncodeTiled encode) : encode_(encode) {}

  absl::StatusOr<uint32_t> Find(const Matrix& m) {
    const auto [it, fresh] = index_.try_emplace(std::tuple(m.data, m.rows, m.cols, m.ld),
                                                static_cast<uint32_t>(maps_.size()));
    if (!fresh) return it->second;
    const cuuint64_t extent[2] = {static_cast<cuuint64_t>(m.cols), static_cast<cuuint64_t>(m.rows)};
    const cuuint64_t stride[1] = {static_cast<cuuint64_t>(m.ld) * 2};
    const cuuint32_t box[2] = {64, 64}, step[2] = {1, 1};
    CUtensorMap map;
    const CUresult result =
        encode_(&map,
                m.dtype == DType::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                            : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                2, m.data, extent, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) {
      return absl::InternalError(
          absl::StrFormat("cuTensorMapEncodeTiled of %d x %d, ld %d: error %d", m.rows, m.cols,
                          m.ld, static_cast<int>(result)));
    }
    maps_.push_back(map);
    return it->second;
  }
  const std::vector<CUtensorMap>& maps() const { return maps_; }

 private:
  const EncodeTiled encode_;
  absl::flat_hash_map<std::tuple<void*, int64_t, int64_t, int64_t>, uint32_t> index_;
  std::vector<CUtensorMap> maps_;
};

class HopperProducts final : public GroupedProducts {
 public:
  HopperProducts(EncodeTiled encode, int clusters) : encode_(encode), clusters_(clusters) {}

  absl::Status Check(const Product& product) const override { return CheckProduct(product); }

  absl::StatusOr<std::unique_ptr<Program>> Compile(absl::Span<const Product> products,
                                                   absl::Span<const size_t> phase_ends) override {
    auto program = std::make_unique<HopperProgram>();
    if (products.empty()) return program;
    const DType dtype = products[0].d.dtype;
    program->bf16 = dtype == DType::kBFloat16;
    for (size_t i = 0; i < products.size(); ++i) {
      absl::Status status = CheckProduct(products[i]);
      if (status.ok() && products[i].d.dtype != dtype) {
        status = absl::InvalidArgumentError("products of one list must have one dtype");
      }
      if (!status.ok()) {
        return absl::InvalidArgumentError(
            absl::StrFormat("product %d of %d: %s", i, products.size(), status.message()));
      }
    }
    const hopper::Schedule schedule = hopper::MakeSchedule(products, phase_ends, 2 * clusters_);
    TensorMaps maps(encode_);
    std::vector<ProductRecord> records;
    std::vector<Dependency> dependencies;
    records.reserve(products.size() + 1);
    uint64_t tiles = 0;
    for (const hopper::Schedule::Item& item : schedule.items) {
      const Product& p = products[item.product];
      ProductRecord r{};
      r.first_tile = static_cast<uint32_t>(tiles);
      r.m = static_cast<int32_t>(p.d.rows);
      r.n = static_cast<int32_t>(p.d.cols);
      r.k = static_cast<int32_t>(p.a_transposed ? p.a.rows : p.a.cols);
      const std::pair<const Matrix*, uint32_t*> operands[] = {{&p.a, &r.map_a},
                                                              {&p.b, &r.map_b},
                                                              {&p.c, &r.map_c},
                                                              {&p.d, &r.map_d},
                                                              {&p.d2, &r.map_d2}};
      for (const auto& [matrix, place] : operands) {
        if (matrix->data == nullptr) continue;
        auto index = maps.Find(*matrix);
        if (!index.ok()) return index.status();
        *place = *index;
      }
      r.flags =
          (p.symmetric ? hopper::kSymmetric : 0u) | (p.a_transposed ? hopper::kATransposed : 0u) |
          (p.b_transposed ? 0u : hopper::kBPlain) | (p.c.data != nullptr ? hopper::kHasC : 0u) |
          (p.d2.data != nullptr ? hopper::kHasD2 : 0u) |
          (p.diagonal != 0 || p.diagonal2 != 0 ? hopper::kHasDiagonal : 0u) |
          (p.a.half ? hopper::kHalfA : 0u) | (p.b.half ? hopper::kHalfB : 0u) |
          (p.d.half ? hopper::kHalfD : 0u) |
          (r.map_a == r.map_b && p.a_transposed != p.b_transposed && p.a.half == p.b.half
               ? hopper::kSquare
               : 0u);
      r.alpha = p.alpha;
      r.beta = p.beta;
      r.diagonal = p.diagonal;
      r.diagonal2 = p.diagonal2;
      r.divisor = p.alpha_divisor;
      r.divisor_floor = p.divisor_floor;
      r.divisor_power = p.divisor_power;
      r.first_dependency = static_cast<uint32_t>(dependencies.size());
      r.dependencies = static_cast<uint32_t>(item.waits_for.size());
      for (const uint32_t place : item.waits_for) {
        const uint64_t strips =
            hopper::TileCount(products[schedule.items[place].product]) * hopper::kStripsPerTile;
        dependencies.push_back({place, static_cast<uint32_t>(strips)});
      }
      tiles += hopper::TileCount(p);
      if (tiles > UINT32_MAX / 2) {
        return absl::InvalidArgumentError("a list of products must stay below 2^31 tiles");
      }
      records.push_back(r);
    }
    ProductRecord last{};
    last.first_tile = static_cast<uint32_t>(tiles);
    records.push_back(last);
    const absl::Status status = Upload(records, dependencies, maps.maps(), program.get());
    if (!status.ok()) return status;
    return program;
  }

  absl::Status Launch(cudaStream_t stream, const Program& base) override {
    const auto& program = static_cast<const HopperProgram&>(base);
    if (program.launch.products == 0) return absl::OkStatus();
    absl::Status status =
        CudaStatus(cudaMemsetAsync(program.launch.counters, 0, program.launch.products * 4, stream),
                   "clearing the counters of grouped products");
    if (!status.ok()) return status;
    return CudaStatus(hopper::LaunchProducts(stream, program.launch, program.bf16, clusters_),
                      "launching grouped products");
  }

  absl::Status Run(cudaStream_t stream, absl::Span<const Product> products,
                   absl::Span<const size_t> phase_ends) override {
    if (products.empty()) return absl::OkStatus();
    std::string key;
    key.reserve(products.size() * 256);
    for (const Product& p : products) {
      for (const Matrix* m : {&p.d, &p.a, &p.b, &p.c, &p.d2}) {
        Append(*m, &key);
      }
      const uint64_t flags = p.a_transposed | p.b_transposed << 1 | p.symmetric << 2;
      AppendBytes(flags, &key);
      AppendBytes(p.alpha, &key);
      AppendBytes(p.beta, &key);
      AppendBytes(p.diagonal, &key);
      AppendBytes(p.diagonal2, &key);
      AppendBytes(p.alpha_divisor, &key);
      AppendBytes(p.divisor_floor, &key);
      AppendBytes(p.divisor_power, &key);
    }
    for (const size_t end : phase_ends) AppendBytes(end, &key);
    absl::MutexLock lock(&mutex_);
    auto found = cache_.find(key);
    if (found == cache_.end()) {
      if (cache_.size() >= kRemembered) {  // the oldest goes; its last launch may still run
        const absl::Status status = CudaStatus(cudaDeviceSynchronize(), "grouped products");
        if (!status.ok()) return status;
        cache_.erase(order_.front());
        order_.pop_front();
      }
      auto program = Compile(products, phase_ends);
      if (!program.ok()) return program.status();
      order_.push_back(key);
      found = cache_.emplace(std::move(key), *std::move(program)).first;
    }
    return Launch(stream, *found->second);
  }

 private:
  static constexpr size_t kRemembered = 512;

  template <typename T>
  static void AppendBytes(const T& value, std::string* key) {
    key->append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  static void Append(const Matrix& m, std::string* key) {
    AppendBytes(m.data, key);
    AppendBytes(m.rows, key);
    AppendBytes(m.cols, key);
    AppendBytes(m.ld, key);
    AppendBytes(m.dtype, key);
    AppendBytes(m.half, key);
  }

  absl::Status Upload(const std::vector<ProductRecord>& records,
                      const std::vector<Dependency>& dependencies,
                      const std::vector<CUtensorMap>& maps, HopperProgram* program) {
    const auto aligned = [](size_t bytes) { return (bytes + 127) / 128 * 128; };
    const size_t map_bytes = aligned(maps.size() * sizeof(CUtensorMap));
    const size_t record_bytes = aligned(records.size() * sizeof(ProductRecord));
    const size_t dependency_bytes = aligned(dependencies.size() * sizeof(Dependency));
    const size_t counter_bytes = aligned(records.size() * 4);
    std::vector<char> host(map_bytes + record_bytes + dependency_bytes);
    std::memcpy(host.data(), maps.data(), maps.size() * sizeof(CUtensorMap));
    std::memcpy(host.data() + map_bytes, records.data(), records.size() * sizeof(ProductRecord));
    if (!dependencies.empty()) {
      std::memcpy(host.data() + map_bytes + record_bytes, dependencies.data(),
                  dependencies.size() * sizeof(Dependency));
    }
    program->bytes = host.size() + counter_bytes;
    absl::Status status = CudaStatus(cudaMalloc(&program->memory, program->bytes),
                                     "memory for a list of grouped products");
    if (!status.ok()) return status;
    status =
        CudaStatus(cudaMemcpy(program->memory, host.data(), host.size(), cudaMemcpyHostToDevice),
                   "uploading a list of grouped products");
    if (!status.ok()) return status;
    char* base = static_cast<char*>(program->memory);
    program->launch.maps = base;
    program->launch.records = reinterpret_cast<const ProductRecord*>(base + map_bytes);
    program->launch.dependencies =
        reinterpret_cast<const Dependency*>(base + map_bytes + record_bytes);
    program->launch.counters = reinterpret_cast<uint32_t*>(base + host.size());
    program->launch.products = static_cast<uint32_t>(records.size() - 1);
    return absl::OkStatus();
  }

  const EncodeTiled encode_;
  const int clusters_;
  absl::Mutex mutex_;
  std::unordered_map<std::string, std::unique_ptr<Program>> cache_ ABSL_GUARDED_BY(mutex_);
  std::list<std::string> order_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<GroupedProducts>> GroupedProducts::Create() {
  int device = 0, major = 0, minor = 0, processors = 0;
  absl::Status status = CudaStatus(cudaGetDevice(&device), "current device");
  if (!status.ok()) return status;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (major != 9 || minor != 0) {
    return absl::UnimplementedError(
        absl::StrFormat("grouped products need sm_90, device %d is sm_%d%d", device, major, minor));
  }
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  status = CudaStatus(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                                       cudaEnableDefault, &found),
                      "cuTensorMapEncodeTiled");
  if (!status.ok()) return status;
  if (found != cudaDriverEntryPointSuccess) {
    return absl::UnimplementedError("the driver has no cuTensorMapEncodeTiled");
  }
  return std::make_unique<HopperProducts>(reinterpret_cast<EncodeTiled>(entry), processors / 2);
}

}  // namespace muond
