// The CPU verbs against the fp64 reference; and the reference against itself, so that the suite is known to pass on it.
#include "tests/support/ops_contract.h"

namespace muond::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(
    Kernels, OpsContractTest,
    ::testing::Values(OpsCase{"cpu", [] { return absl::StatusOr<Bench>(CpuBench()); }},
                      OpsCase{"reference", [] { return absl::StatusOr<Bench>(ReferenceBench()); }}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace muond::testing
