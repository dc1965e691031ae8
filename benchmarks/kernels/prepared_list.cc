#include "benchmarks/kernels/prepared_list.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"

namespace muond::bench {
namespace {

// Ops of which Newton-Schulz needs only the products; it keeps them instead of running them.
class Recorder final : public Ops {
 public:
  DType iterate_dtype() const override { return DType::kFloat16; }
  void Multiply(Stream&, absl::Span<const Product> products) override {
    products_.insert(products_.end(), products.begin(), products.end());
    phase_ends_.push_back(products_.size());
  }
  void Measure(Stream&, absl::Span<const MeasureTask>) override {}
  void Direction(Stream&, absl::Span<const DirectionTask>) override {}
  void Apply(Stream&, absl::Span<const ApplyTask>) override {}
  void AdamW(Stream&, absl::Span<const AdamWTask>) override {}
  void Scatter(Stream&, absl::Span<const ScatterTask>) override {}
  void Flip(Stream&, const FlipTask&) override {}

  const std::vector<Product>& products() const { return products_; }
  const std::vector<size_t>& phase_ends() const { return phase_ends_; }

 private:
  std::vector<Product> products_;
  std::vector<size_t> phase_ends_;
};

class NoStream final : public Stream {
 public:
  void Host(absl::AnyInvocable<void()>) override {}
  void WaitCell(const Cell*, uint64_t) override {}
  void WriteCell(Cell*, uint64_t) override {}
  void Copy(void*, const void*, size_t) override {}
  void Zero(void*, size_t) override {}
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::Status health() const override { return absl::OkStatus(); }
};

uint64_t DirectionBytes(const Matrix& x) {
  return static_cast<uint64_t>(x.rows) * static_cast<uint64_t>(x.ld) * SizeOf(x.dtype);
}

}  // namespace

absl::StatusOr<PreparedList> PreparedList::Create(GroupedProducts& products,
                                                  absl::Span<const NewtonSchulzTask> tasks,
                                                  void* workspace, uint64_t workspace_bytes) {
  PreparedList list(products);
  size_t first = 0;
  while (first < tasks.size()) {
    uint64_t bytes = 0;
    size_t end = first;
    while (end < tasks.size()) {
      const uint64_t more = BytesOf(tasks[end]);
      if (bytes + more > workspace_bytes) break;
      bytes += more;
      ++end;
    }
    if (end == first) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("a %d x %d matrix does not fit a workspace of %d bytes",
                          tasks[first].x.rows, tasks[first].x.cols, workspace_bytes));
    }
    Recorder recorder;
    NoStream stream;
    NewtonSchulz(recorder, stream, tasks.subspan(first, end - first), workspace);
    auto program = products.Compile(recorder.products(), recorder.phase_ends());
    if (!program.ok()) return program.status();
    list.workspace_bytes_ = std::max(list.workspace_bytes_, bytes);
    list.product_count_ += recorder.products().size();
    list.rounds_.push_back(*std::move(program));
    first = end;
  }
  return list;
}

uint64_t PreparedList::BytesOf(const NewtonSchulzTask& task) {
  const Recorder sizes;
  return DirectionBytes(task.x) + NewtonSchulzWorkspaceBytes(sizes, {&task, 1});
}

absl::Status PreparedList::Launch(cudaStream_t stream) {
  for (const auto& round : rounds_) {
    const absl::Status status = products_->Launch(stream, *round);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

uint64_t PreparedList::device_bytes() const {
  uint64_t bytes = 0;
  for (const auto& round : rounds_) bytes += round->device_bytes();
  return bytes;
}

}  // namespace muond::bench
