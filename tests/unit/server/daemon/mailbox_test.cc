#include "server/daemon/mailbox.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <thread>

namespace muond {
namespace {

bool Readable(const Mailbox& mailbox) {
  pollfd entry{mailbox.event_descriptor(), POLLIN, 0};
  return ::poll(&entry, 1, 0) == 1;
}

TEST(MailboxTest, APostWakesAndATakeEmptiesTheBox) {
  auto mailbox = Mailbox::Create();
  ASSERT_TRUE(mailbox.ok());
  EXPECT_FALSE(Readable(**mailbox));
  std::thread other([&] { (*mailbox)->Post(Completion{CompletionKind::kGroupDone, 4, 2}); });
  other.join();
  int called = 0;
  EXPECT_TRUE((*mailbox)->Post([&called] { ++called; }));
  EXPECT_TRUE(Readable(**mailbox));
  std::vector<Completion> completions;
  std::vector<absl::AnyInvocable<void()>> commands;
  (*mailbox)->Take(&completions, &commands);
  EXPECT_FALSE(Readable(**mailbox));
  ASSERT_EQ(completions.size(), 1u);
  EXPECT_EQ(completions[0].job, 4u);
  ASSERT_EQ(commands.size(), 1u);
  commands[0]();
  EXPECT_EQ(called, 1);
}

TEST(MailboxTest, AClosedBoxTakesCompletionsButNoCommands) {
  auto mailbox = Mailbox::Create();
  ASSERT_TRUE(mailbox.ok());
  (*mailbox)->Close();
  EXPECT_FALSE((*mailbox)->Post([] {}));
  (*mailbox)->Post(Completion{});
  EXPECT_TRUE(Readable(**mailbox));
}

}  // namespace
}  // namespace muond
