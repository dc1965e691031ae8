#include "proto/stubs/channel.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "proto/stubs/credentials.h"
#include "proto/stubs/endpoint.h"
#include "proto/stubs/grpc_status.h"
#include "proto/types/limits.h"

namespace muond {

absl::StatusOr<Peer> Connect(std::string_view endpoint, std::string noun,
                             const StubOptions& options) {
  absl::StatusOr<std::string> target = CanonicalEndpoint(endpoint);
  if (!target.ok()) return target.status();
  if (absl::Status status = CheckCallTls(*target, options.tls, absl::Now()); !status.ok())
    return status;
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(kMessageBytesMax));
  arguments.SetMaxSendMessageSize(static_cast<int>(kMessageBytesMax));
  // A restarted peer is found again within a tenth of a second, not gRPC's one to twenty.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // Despite its name the time that one attempt may take, HTTP/2 greeting included. A loaded machine's daemon may need seconds
  // to greet; nobody there is refused at once, and a call's own deadline holds anyway.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 20'000);
  if (options.keep_alive) {
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 1000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 2000);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // as many as it takes
  }
  // Stubs do not share connections, nor each other's back-off; and no proxy stands between a rank and its daemon.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  if (IsUnixEndpoint(*target)) arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
  Peer peer{*target, std::move(noun), options, nullptr};
  peer.channel =
      grpc::CreateCustomChannel(*target, CallCredentials(*target, options.tls), arguments);
  return peer;
}

void Peer::Prepare(grpc::ClientContext& context, absl::Duration timeout) const {
  const absl::Duration wait = timeout == absl::ZeroDuration() ? options.timeout : timeout;
  if (wait != absl::InfiniteDuration()) {
    context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(wait));
  }
  context.set_wait_for_ready(options.wait_for_ready);
}

absl::Status Peer::Explain(const grpc::Status& status, absl::Duration timeout) const {
  absl::Status result = FromGrpc(status);
  const absl::Duration wait = timeout == absl::ZeroDuration() ? options.timeout : timeout;
  if (absl::IsUnavailable(result)) {
    return absl::UnavailableError(
        absl::StrCat(noun, " at ", endpoint, " cannot be reached: ", status.error_message()));
  }
  // The peer's own text says more than gRPC's ("Deadline Exceeded").
  if (absl::IsDeadlineExceeded(result)) {
    return absl::DeadlineExceededError(absl::StrCat(noun, " at ", endpoint, ", after ",
                                                    absl::FormatDuration(wait), ": ",
                                                    status.error_message()));
  }
  return result;
}

}  // namespace muond
