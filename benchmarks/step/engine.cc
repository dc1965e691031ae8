#include "benchmarks/step/engine.h"

namespace muond {

absl::StatusOr<float*> Engine::Allocate(int64_t elements) {
  absl::StatusOr<std::unique_ptr<Buffer>> buffer =
      backend_->devices()[0]->Allocate(static_cast<size_t>(elements) * sizeof(float));
  if (!buffer.ok()) return buffer.status();
  buffers_.push_back(*std::move(buffer));
  return static_cast<float*>(buffers_.back()->data());
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const Manifest& manifest,
                                                       const std::vector<Memory>& memory) {
  std::unique_ptr<Engine> engine(new Engine);
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCpuBackend({});
  if (!backend.ok()) return backend.status();
  engine->backend_ = *std::move(backend);
  engine->ops_ = CreateCpuOps();
  absl::StatusOr<std::unique_ptr<Stream>> stream = engine->backend_->devices()[0]->CreateStream();
  if (!stream.ok()) return stream.status();
  engine->stream_ = *std::move(stream);
  absl::StatusOr<CoefficientTable> table = FindCoefficientTable("jordan", 5);
  if (!table.ok()) return table.status();
  engine->table_ = *std::move(table);

  const size_t count = manifest.tensors.size();
  engine->measurements_.resize(count);
  engine->muon_scalars_.resize(count);
  engine->adamw_scalars_.lr = 1e-3;
  for (size_t t = 0; t < count; ++t) {
    const MatrixView view = ViewOf(manifest.tensors[t]);
    const int64_t elements = view.rows * view.cols;
    std::vector<float*> own;  // two of each state, a staged place
    for (int i = 0; i < 5; ++i) {
      absl::StatusOr<float*> room = engine->Allocate(elements);
      if (!room.ok()) return room.status();
      own.push_back(*room);
    }
    const Matrix place{own[4], view.rows, view.cols, view.cols, DType::kFloat32};
    const auto block = [&view](const float* data) {
      return Block{const_cast<float*>(data), 0, 0, view.rows, view.cols, view.cols,
                   DType::kFloat32,          0};
    };
    MeasureTask measure;
    measure.blocks = {block(memory[t].gradient)};
    measure.rows = view.rows;
    measure.cols = view.cols;
    measure.result = &engine->measurements_[t];
    engine->measures_.push_back(measure);
    if (manifest.groups[manifest.tensors[t].group].rule == Rule::kMuon) {
      MuonScalars& scalars = engine->muon_scalars_[t];
      scalars.lr = 1e-3;
      scalars.momentum = 0.95;
      scalars.update_scale = UpdateScaleFactor(UpdateScale::kOriginal, view.rows, view.cols);
      MuonItem item;
      item.rows = view.rows;
      item.cols = view.cols;
      item.gradient = {block(memory[t].gradient)};
      item.parameter_in = {block(memory[t].parameter)};
      item.parameter_out = place;
      item.momentum_in = own[0];
      item.momentum_out = own[1];
      item.scalars = &scalars;
      item.table = &engine->table_;
      engine->muon_.push_back(item);
    } else {
      absl::StatusOr<float*> steps = engine->Allocate(4);
      if (!steps.ok()) return steps.status();
      AdamWTask task;
      task.rows = view.rows;
      task.cols = view.cols;
      task.gradient = {block(memory[t].gradient)};
      task.parameter_in = {block(memory[t].parameter)};
      task.parameter_out = place;
      task.exp_avg_in = own[0];
      task.exp_avg_sq_in = own[1];
      task.exp_avg_out = own[2];
      task.exp_avg_sq_out = own[3];
      task.step_in = reinterpret_cast<double*>(*steps);
      task.step_out = reinterpret_cast<double*>(*steps) + 1;
      task.scalars = &engine->adamw_scalars_;
      engine->adamw_.push_back(task);
    }
    engine->scatters_.push_back({place, {block(memory[t].parameter)}});
  }
  if (!engine->muon_.empty()) {
    engine->workspace_bytes_ = MuonWorkspaceBytes(*engine->ops_, engine->muon_, 0);
    absl::StatusOr<float*> workspace =
        engine->Allocate(static_cast<int64_t>(engine->workspace_bytes_ / sizeof(float) + 1));
    if (!workspace.ok()) return workspace.status();
    engine->workspace_ = *workspace;
  }
  return engine;
}

absl::Status Engine::Step() {
  ops_->Measure(*stream_, measures_);
  if (!muon_.empty()) {
    const absl::Status enqueued = MuonStep(*ops_, *stream_, muon_, workspace_, workspace_bytes_);
    if (!enqueued.ok()) return enqueued;
  }
  if (!adamw_.empty()) ops_->AdamW(*stream_, adamw_);
  ops_->Scatter(*stream_, scatters_);
  for (MuonItem& item : muon_) {
    float* next = const_cast<float*>(item.momentum_in);
    item.momentum_in = item.momentum_out;
    item.momentum_out = next;
  }
  for (AdamWTask& task : adamw_) {
    float* average = const_cast<float*>(task.exp_avg_in);
    float* square = const_cast<float*>(task.exp_avg_sq_in);
    task.exp_avg_in = task.exp_avg_out;
    task.exp_avg_sq_in = task.exp_avg_sq_out;
    task.exp_avg_out = average;
    task.exp_avg_sq_out = square;
  }
  return stream_->Synchronize();
}

}  // namespace muond
