// muonctl: looks at and steers a muond daemon. Parses, calls, prints; what is printed is made in the other files.
#include <unistd.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "client/ctl/command_line.h"
#include "client/ctl/daemon_commands.h"
#include "client/ctl/doctor.h"
#include "client/ctl/endpoint_default.h"
#include "client/ctl/offline_plan.h"
#include "client/ctl/top.h"
#include "proto/stubs/coordinator_stub.h"
#include "proto/stubs/daemon_stub.h"

namespace muond {
namespace {

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "muonctl: %s\n", std::string(status.message()).c_str());
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ? kCtlUnreachable
                                                                         : kCtlFailed;
}

// What cannot be right whoever answers: a word of the command line, an endpoint that is none.
int Misused(const absl::Status& status) {
  std::fprintf(stderr, "muonctl: %s\n`muonctl --help` tells what is possible\n",
               std::string(status.message()).c_str());
  return kCtlUsage;
}

int Print(const std::string& text) {
  return std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0 ? kCtlFailed : kCtlOk;
}

int PrintOfflinePlan(const CommandLine& line) {
  absl::StatusOr<std::vector<ModelRow>> list = ReadModelList(line.offline_list);
  if (!list.ok()) return Fail(list.status());
  const absl::StatusOr<OfflinePlan> plan = PlanOffline(*std::move(list), line.offline);
  if (!plan.ok()) return Fail(plan.status());
  return Print(line.json ? ToJson(*plan) : ToText(*plan));
}

int PrintPlans(const CommandLine& line, DaemonStub& stub) {
  const absl::StatusOr<DaemonStatus> status = stub.GetStatus();
  if (!status.ok()) return Fail(status.status());
  std::vector<JobPlan> plans;
  for (const JobStatus& job : status->jobs) {
    if (!line.operands.empty() && line.operands[0] != job.name) continue;
    absl::StatusOr<Plan> plan = stub.GetPlan(job.job, 0);
    if (!plan.ok()) return Fail(plan.status());
    plans.push_back({job.name, *std::move(plan)});
  }
  if (plans.empty() && !line.operands.empty()) {
    return Fail(
        absl::NotFoundError(absl::StrFormat("no job '%s' at %s; it has %d jobs", line.operands[0],
                                            stub.endpoint(), status->jobs.size())));
  }
  return Print(line.json ? PlansJson(plans) : PlansText(plans));
}

int Drain(const CommandLine& line, DaemonStub& stub) {
  const absl::StatusOr<int32_t> left = stub.Drain(absl::Seconds(line.timeout_seconds));
  if (!left.ok()) return Fail(left.status());
  Print(line.json ? absl::StrFormat("{\"jobs_left\": %d}\n", *left)
                  : absl::StrFormat("the daemon takes no new jobs; %d are left\n", *left));
  return *left == 0 ? kCtlOk : kCtlAttention;
}

int Snapshot(const CommandLine& line, DaemonStub& stub) {
  const absl::StatusOr<SnapshotReply> reply =
      stub.Snapshot({0, line.operands[0], line.operands[1]}, absl::Seconds(line.timeout_seconds));
  if (!reply.ok()) return Fail(reply.status());
  return Print(
      line.json ? absl::StrFormat("{\"step\": %d, \"bytes\": %d}\n", reply->step, reply->size_bytes)
                : absl::StrFormat("step %d, %d bytes: %s\n", reply->step, reply->size_bytes,
                                  reply->manifest_path));
}

int PrintCluster(const CommandLine& line, const std::string& endpoint, const StubOptions& options) {
  const auto stub = CoordinatorStub::Create(endpoint, options);
  if (!stub.ok()) return Misused(stub.status());
  const absl::StatusOr<ClusterStatus> cluster = (*stub)->GetCluster();
  if (!cluster.ok()) return Fail(cluster.status());
  return Print(line.json ? ClusterJson(*cluster) : ClusterText(*cluster));
}

int Top(const CommandLine& line, const std::string& endpoint, const StubOptions& options) {
  TopOptions top;
  top.interval = absl::Seconds(line.interval_seconds);
  top.count = line.count;
  top.clear = isatty(STDOUT_FILENO) != 0;
  const absl::Status status = RunTop(endpoint, options, top);
  if (absl::IsInvalidArgument(status)) return Misused(status);
  return status.ok() ? kCtlOk : Fail(status);
}

int Diagnose(const CommandLine& line, const std::string& endpoint, const StubOptions& options) {
  const std::vector<Check> checks = Diagnose(GatherFacts(endpoint, options));
  Print(line.json ? DoctorJson(checks) : DoctorText(checks));
  return HasProblem(checks) ? kCtlAttention : kCtlOk;
}

int AskDaemon(const CommandLine& line, DaemonStub& stub) {
  if (line.command == Command::kPlan) return PrintPlans(line, stub);
  if (line.command == Command::kDrain) return Drain(line, stub);
  if (line.command == Command::kSnapshot) return Snapshot(line, stub);
  const absl::StatusOr<DaemonStatus> status = stub.GetStatus();
  if (!status.ok()) return Fail(status.status());
  if (line.command == Command::kJobs)
    return Print(line.json ? JobsJson(*status) : JobsText(*status));
  return Print(line.json ? StatusJson(*status) : StatusText(*status));
}

int Main(const std::vector<std::string>& arguments) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(arguments);
  if (!line.ok()) return Misused(line.status());
  if (line->command == Command::kHelp) return Print(HelpText(line->help_for));
  if (line->command == Command::kVersion) {
    return Print(
        absl::StrFormat("muonctl %s (protocol %d.%d)\n", kBuild, kProtocolMajor, kProtocolMinor));
  }
  if (!line->offline_list.empty()) return PrintOfflinePlan(*line);
  const std::string endpoint = line->endpoint.empty() ? DefaultEndpoint() : line->endpoint;
  StubOptions options;
  options.timeout = absl::Seconds(line->timeout_seconds);
  options.tls = DefaultTls(line->tls);
  if (line->command == Command::kDoctor) return Diagnose(*line, endpoint, options);
  if (line->command == Command::kTop) return Top(*line, endpoint, options);
  if (line->command == Command::kCluster) return PrintCluster(*line, endpoint, options);
  const auto stub = DaemonStub::Create(endpoint, options);
  if (!stub.ok()) return Misused(stub.status());
  return AskDaemon(*line, **stub);
}

}  // namespace
}  // namespace muond

int main(int argc, char** argv) {
  return muond::Main(std::vector<std::string>(argv + 1, argv + argc));
}
