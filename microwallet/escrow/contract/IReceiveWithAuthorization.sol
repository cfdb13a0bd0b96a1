// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title The part of EIP-3009 that the escrow calls
/// @notice The overload that takes a packed signature, as USDC has it since its version 2.2. Only the receiver can
/// submit such an authorization, so nobody can take it out of a pending transaction and move the funds without a
/// channel being opened or topped up.
interface IReceiveWithAuthorization {
    /// @notice Moves `value` from `from` to the caller, which must be `to`.
    /// @param validAfter Valid after this time, in Unix seconds.
    /// @param validBefore Valid before this time, in Unix seconds.
    /// @param nonce Never used before by `from`.
    /// @param signature The EIP-712 signature of `from` over a `ReceiveWithAuthorization` in the token's domain.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;
}
