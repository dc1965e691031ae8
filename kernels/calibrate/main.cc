// muond-calibrate: measures this machine's device and writes the table that the planner reads.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "kernels/calibrate/calibrate.h"

namespace muond {
namespace {

constexpr char kUsage[] =
    "usage: muond-calibrate [--device=cpu|N] [--seconds=S] [--output=FILE]\n"
    "Measures a device in about S seconds (default 30) and writes a calibration: to FILE, else to "
    "standard output.\n"
    "N counts CUDA devices as this process sees them; the default is 0 where there is one, else "
    "cpu.\n";

struct Arguments {
  std::string device;
  std::string output;
  CalibrateOptions options;
};

bool Parse(int argc, char** argv, Arguments* arguments) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view flag = argv[i];
    if (absl::ConsumePrefix(&flag, "--device=")) {
      arguments->device = std::string(flag);
    } else if (absl::ConsumePrefix(&flag, "--output=")) {
      arguments->output = std::string(flag);
    } else if (absl::ConsumePrefix(&flag, "--seconds=")) {
      if (!absl::SimpleAtod(flag, &arguments->options.seconds) || !(arguments->options.seconds > 0))
        return false;
    } else {
      return false;
    }
  }
  return true;
}

int Fail(const absl::Status& status) {
  std::cerr << "muond-calibrate: " << status.message() << "\n";
  return EXIT_FAILURE;
}

int Run(const Arguments& arguments) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCudaBackend();
  const bool cpu = arguments.device == "cpu" || (arguments.device.empty() && !backend.ok());
  if (cpu) backend = CreateCpuBackend({});
  if (!backend.ok()) return Fail(backend.status());
  size_t ordinal = 0;
  if (!cpu && !arguments.device.empty() && !absl::SimpleAtoi(arguments.device, &ordinal)) {
    return Fail(absl::InvalidArgumentError("device '" + arguments.device +
                                           "' is neither 'cpu' nor a number"));
  }
  const auto& devices = (*backend)->devices();
  if (ordinal >= devices.size()) {
    return Fail(absl::NotFoundError("device " + std::to_string(ordinal) + " of " +
                                    std::to_string(devices.size())));
  }
  Device& device = *devices[ordinal];
  absl::StatusOr<std::unique_ptr<Ops>> ops = cpu ? CreateCpuOps() : CreateCudaOps(device);
  if (!ops.ok()) return Fail(ops.status());
  absl::StatusOr<CostModel> model = Calibrate(device, **ops, arguments.options, &std::cerr);
  if (!model.ok()) return Fail(model.status());
  if (arguments.output.empty()) {
    std::cout << model->ToText();
    return EXIT_SUCCESS;
  }
  std::ofstream file(arguments.output);
  file << model->ToText();
  file.close();
  return file ? EXIT_SUCCESS : Fail(absl::UnavailableError("cannot write " + arguments.output));
}

}  // namespace
}  // namespace muond

int main(int argc, char** argv) {
  muond::Arguments arguments;
  if (!muond::Parse(argc, argv, &arguments)) {
    std::cerr << muond::kUsage;
    return 2;
  }
  return muond::Run(arguments);
}
