// muonctl without its process: command lines, lists, plans on paper, findings.
#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "client/ctl/command_line.h"
#include "client/ctl/doctor.h"
#include "client/ctl/model_list.h"
#include "client/ctl/offline_plan.h"
#include "client/ctl/text_table.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace muond {
namespace {

using ::testing::HasSubstr;

std::string ListError(std::string_view text) {
  return std::string(ParseModelList(text, "list.csv").status().message());
}

TEST(ModelListTest, CommentsBlanksAndCarriageReturnsAreSkipped) {
  const auto list =
      ParseModelList("# a model\r\n\nname,rows,cols,count\r\nq, 8 ,4,2\n#x\nk,4,4,1", "list.csv");
  ASSERT_TRUE(list.ok()) << list.status();
  ASSERT_EQ(list->size(), 2u);
  EXPECT_EQ((*list)[0].name, "q");
  EXPECT_EQ((*list)[0].rows, 8);
  EXPECT_EQ((*list)[1].count, 1);
  EXPECT_EQ(ManifestOf(*list).tensors.size(), 3u);
}

TEST(ModelListTest, BadLinesAreNamedByNumber) {
  const std::string header = "# c\nname,rows,cols,count\n";
  EXPECT_THAT(ListError(header + "q,8,x,1"), HasSubstr("list.csv:3: cols is 'x'"));
  EXPECT_THAT(ListError(header + "q,8,4,1\nk,0,4,1"), HasSubstr("list.csv:4: rows is '0'"));
  EXPECT_THAT(ListError(header + "q,8,4"), HasSubstr("list.csv:3: 3 fields, expected 4"));
  EXPECT_THAT(ListError(header + "q,8,4,-1"), HasSubstr("count is '-1'"));
  EXPECT_THAT(ListError(header + "q,99999999999999999999,4,1"), HasSubstr("rows is"));
  EXPECT_THAT(ListError(header + "q,1000000,1000000,1"),
              HasSubstr("more than 68719476736 elements"));
  EXPECT_THAT(ListError(header + "q,8,4,1048576\nk,8,4,1"),
              HasSubstr("list.csv:4: more than 1048576 matrices"));
  EXPECT_THAT(ListError("q,8,4,1\n"), HasSubstr("list.csv:1: the header is 'q,8,4,1'"));
  EXPECT_THAT(ListError(header), HasSubstr("no matrices after the header"));
  EXPECT_THAT(ListError(""), HasSubstr("no header"));
}

TEST(OfflinePlanTest, EveryMatrixHasOneOwnerAndTheCostsAddUp) {
  OfflineOptions options;
  options.devices = 5;
  const auto plan = PlanOffline({{"q", 1024, 1024, 7}, {"up", 4096, 1024, 9}}, options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  double total = 0, loads = 0;
  for (size_t r = 0; r < plan->list.size(); ++r) {
    int64_t owned = 0;
    for (int64_t count : plan->owned[r]) owned += count;
    EXPECT_EQ(owned, plan->list[r].count);
    total += plan->row_seconds[r] * static_cast<double>(owned);
  }
  for (double load : plan->planned.plan.device_cost_seconds) loads += load;
  EXPECT_NEAR(loads, total, 1e-12);
  EXPECT_THAT(ToJson(*plan), HasSubstr("\"makespan_seconds\""));
  EXPECT_THAT(ToText(*plan), HasSubstr("16 matrices, 5 devices"));
}

TEST(OfflinePlanTest, AModelThatDoesNotFitIsRefusedWithBytes) {
  OfflineOptions options;
  options.device_memory_bytes = 1 << 20;
  const absl::Status status = PlanOffline({{"q", 1024, 1024, 7}}, options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("an item needs 5242880 bytes"));
}

std::string LineError(const std::vector<std::string>& words) {
  return std::string(ParseCommandLine(words).status().message());
}

TEST(CommandLineTest, OptionsStandAnywhereAndInBothForms) {
  const auto line = ParseCommandLine(
      {"-o", "json", "plan", "--offline=a.csv", "--devices", "64", "--device-kind=cpu"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->command, Command::kPlan);
  EXPECT_TRUE(line->json);
  EXPECT_EQ(line->offline.devices, 64);
  EXPECT_TRUE(line->offline.cpu);
}

TEST(CommandLineTest, WrongWordsAreNamed) {
  EXPECT_THAT(LineError({"frob"}), HasSubstr("unknown command 'frob'"));
  EXPECT_THAT(LineError({"status", "--frob"}), HasSubstr("unknown option --frob"));
  EXPECT_THAT(LineError({"status", "--devices", "3"}), HasSubstr("status takes no --devices"));
  EXPECT_THAT(LineError({"plan", "--devices", "0", "--offline", "x"}), HasSubstr("--devices 0"));
  EXPECT_THAT(LineError({"plan", "--devices", "3"}), HasSubstr("needs --offline"));
  EXPECT_THAT(LineError({"status", "--endpoint"}), HasSubstr("--endpoint needs a value"));
  EXPECT_THAT(LineError({"status", "-o", "xml"}), HasSubstr("allowed are json and text"));
  EXPECT_THAT(LineError({"snapshot", "job"}), HasSubstr("1 operands"));
}

TEST(CommandLineTest, EveryCommandHasHelp) {
  for (const char* name : {"status", "jobs", "plan", "drain", "snapshot", "cluster", "doctor"}) {
    const auto line = ParseCommandLine({name, "--help"});
    ASSERT_TRUE(line.ok());
    EXPECT_EQ(line->command, Command::kHelp);
    EXPECT_THAT(HelpText(line->help_for), HasSubstr(std::string("usage: muonctl ") + name));
    EXPECT_THAT(HelpText(""), HasSubstr(name));
  }
}

Facts Healthy() {
  Facts facts;
  facts.endpoint = "unix:/run/d.sock";
  facts.daemon.emplace();
  facts.daemon->devices.resize(1);
  facts.open_files = facts.open_files_hard = 65'536;
  facts.locked_bytes = std::numeric_limits<uint64_t>::max();
  facts.memory_bytes = 100;
  facts.memory_free_bytes = 90;
  facts.memfd = true;
  return facts;
}

Check Find(const Facts& facts, const std::string& name) {
  for (const Check& check : Diagnose(facts)) {
    if (check.name == name) return check;
  }
  return {};
}

TEST(DoctorTest, AHealthyMachineHasNoProblemAndNoWarning) {
  for (const Check& check : Diagnose(Healthy())) {
    EXPECT_LE(check.finding, Finding::kNote) << check.name << ": " << check.what;
  }
}

TEST(DoctorTest, EachFindingSaysWhatToChange) {
  Facts facts = Healthy();
  facts.daemon.reset();
  facts.reached = absl::UnavailableError("nobody");
  facts.socket_exists = true;
  EXPECT_EQ(Find(facts, "daemon").finding, Finding::kProblem);
  EXPECT_THAT(Find(facts, "daemon").change, HasSubstr("may not write to the socket"));
  EXPECT_TRUE(HasProblem(Diagnose(facts)));

  facts = Healthy();
  facts.open_files = 1024;
  EXPECT_EQ(Find(facts, "open files").change, "ulimit -n 4096");
  facts.memfd = false;
  EXPECT_EQ(Find(facts, "shared memory").finding, Finding::kProblem);
  facts.gpu_device_files = true;
  EXPECT_THAT(Find(facts, "CUDA").what, HasSubstr("libcuda.so.1 does not load"));
  facts.cuda_driver_loads = facts.built_with_cuda = true;
  facts.max_connections = "1";
  EXPECT_EQ(Find(facts, "CUDA").finding, Finding::kOk);
  EXPECT_EQ(Find(facts, "connections").finding, Finding::kWarning);
  EXPECT_THAT(Find(facts, "MPS").change, HasSubstr("nvidia-cuda-mps-control"));
  facts.daemon->stepper_starts = 3;
  EXPECT_EQ(Find(facts, "stepper").what, "was started 3 times");
  EXPECT_THAT(DoctorJson(Diagnose(facts)), HasSubstr("\"finding\": \"problem\""));
}

TEST(TextTableTest, NumbersStandToTheRightAndBarsKeepTheirWidth) {
  TextTable table({"name", "n"});
  table.Add({"a", "7"});
  table.Add({"bcd", "1000"});
  EXPECT_EQ(table.ToText(), "name     n\na        7\nbcd   1000\n");
  EXPECT_EQ(Bar(0.5, 4), "██░░");
  EXPECT_EQ(Bar(7, 2), "██");
  EXPECT_EQ(BytesText(1536), "1.5 KiB");
}

}  // namespace
}  // namespace muond
