#include "proto/wire/job_page.h"

#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

using ::testing::HasSubstr;

struct alignas(64) Line {
  char bytes[64] = {};
};

struct Page {
  explicit Page(PageShape shape)
      : memory(*JobPage::SizeBytes(shape) / 64), page(memory.data(), shape) {}
  uint64_t OffsetOf(const void* at) const {
    return static_cast<uint64_t>(static_cast<const char*>(at) - memory[0].bytes);
  }
  std::vector<Line> memory;
  JobPage page;
};

PageShape Shape() {
  return {.ranks = 3, .buckets = 5, .items = 9, .groups = 2, .tensors = 130, .blocks_max = 7};
}

TEST(JobPageTest, NoTwoFieldsShareBytesAndAllLieInside) {
  const PageShape shape = Shape();
  Page made(shape);
  const JobPage& page = made.page;
  std::map<uint64_t, std::pair<uint64_t, std::string>> fields;  // begin -> end, name
  auto add = [&](const void* at, uint64_t size_bytes, std::string name) {
    const uint64_t begin = made.OffsetOf(at);
    ASSERT_TRUE(fields.emplace(begin, std::make_pair(begin + size_bytes, name)).second) << name;
  };
  add(&page.header(), sizeof(PageHeader), "header");
  for (uint32_t rank = 0; rank < shape.ranks; ++rank) {
    for (uint32_t bucket = 0; bucket < shape.buckets; ++bucket) {
      add(&page.gradient_ready(rank, bucket), 8, "gradient_ready");
      add(&page.taken(rank, bucket), 8, "taken");
    }
    for (uint32_t item = 0; item < shape.items; ++item)
      add(&page.parameter_ready(rank, item), 8, "parameter_ready");
    add(&page.step_over(rank), 8, "step_over");
    for (uint64_t step : {1, 2}) {
      add(&page.sheet(rank, step), sizeof(SheetHeader), "sheet");
      add(page.groups(rank, step), shape.groups * sizeof(GroupScalars), "groups");
      add(page.present(rank, step), (shape.tensors + 63) / 64 * 8, "present");
      add(page.attempts(rank, step), shape.buckets * 4, "attempts");
      add(page.digests(rank, step), shape.blocks_max * 8, "digests");
    }
  }
  uint64_t free_from = 0;
  for (const auto& [begin, field] : fields) {
    EXPECT_GE(begin, free_from) << field.second;
    EXPECT_EQ(begin % 4, 0u);
    free_from = field.first;
  }
  EXPECT_LE(free_from, *JobPage::SizeBytes(shape));
}

TEST(JobPageTest, RanksNeverShareACacheLine) {
  Page made(Shape());
  const JobPage& page = made.page;
  for (uint32_t rank = 0; rank < 2; ++rank) {
    EXPECT_LT(made.OffsetOf(&page.gradient_ready(rank, 4)) / 64,
              made.OffsetOf(&page.gradient_ready(rank + 1, 0)) / 64);
    EXPECT_LT(made.OffsetOf(&page.step_over(rank)) / 64,
              made.OffsetOf(&page.step_over(rank + 1)) / 64);
  }
}

TEST(JobPageTest, SheetsOfNeighbouringStepsAreApartAndOfStepsTwoApartTheSame) {
  Page made(Shape());
  EXPECT_NE(&made.page.sheet(1, 6), &made.page.sheet(1, 7));
  EXPECT_EQ(&made.page.sheet(1, 6), &made.page.sheet(1, 8));
}

TEST(JobPageTest, CheckTellsAPageOfAnotherJobOrShape) {
  Page made(Shape());
  EXPECT_THAT(made.page.Check(4, 1).message(), HasSubstr("magic"));
  made.page.Format(4, 1);
  EXPECT_TRUE(made.page.Check(4, 1).ok());
  EXPECT_THAT(made.page.Check(5, 1).message(),
              HasSubstr("job 4, incarnation 1; expected job 5, incarnation 1"));
  EXPECT_THAT(made.page.Check(4, 2).message(), HasSubstr("expected job 4, incarnation 2"));
  PageShape other = Shape();
  other.items = 8;
  EXPECT_THAT(JobPage(made.memory.data(), other).Check(4, 1).message(),
              HasSubstr("9 items; expected 3, 5, 8"));
}

TEST(JobPageTest, CountsBeyondTheLimitsAreRefusedBeforeAnyAllocation) {
  PageShape shape = Shape();
  shape.items = static_cast<uint32_t>(kItemsMax + 1);
  EXPECT_THAT(JobPage::SizeBytes(shape).status().message(),
              HasSubstr("1048577 items, the limit is 1048576"));
  shape = Shape();
  shape.ranks = 0;
  EXPECT_EQ(JobPage::SizeBytes(shape).status().code(), absl::StatusCode::kInvalidArgument);
  // Each count is allowed, their product is not: 16384 ranks x 2^20 items x 8 bytes.
  shape = Shape();
  shape.ranks = kRanksMax;
  shape.items = kItemsMax;
  EXPECT_THAT(JobPage::SizeBytes(shape).status().message(), HasSubstr("the limit is 8589934592"));
  shape = {.ranks = 0xffffffff, .buckets = 0xffffffff, .items = 0xffffffff};
  EXPECT_EQ(JobPage::SizeBytes(shape).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace muond
