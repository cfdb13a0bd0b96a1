// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IChannelEscrow} from "microwallet/escrow/contract/IChannelEscrow.sol";
import {ITestUSDC} from "./Tokens.sol";
import {Vm} from "./Vm.sol";

/// @notice The escrow, a test USDC, a payer, a payee, and the signatures they make. Digests are built here from literal
/// type strings, never by asking the escrow.
abstract contract Fixture {
    Vm internal constant vm = Vm(0x7109709ECfa91a80626fF3989D68f67F5b1DD12D);

    uint256 internal constant PAYER_KEY = uint256(keccak256("payer"));
    uint256 internal constant PAYEE_KEY = uint256(keccak256("payee"));
    uint256 internal constant SIGNER_KEY = uint256(keccak256("signer"));
    uint256 internal constant CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
    uint256 internal constant START = 1_800_000_000;
    uint256 internal constant VALID_AFTER = START - 1;
    uint256 internal constant VALID_BEFORE = START + 600;
    uint128 internal constant DEPOSIT = 10_000_000;
    uint256 internal constant MAX = type(uint96).max;
    address internal constant NATIVE = address(0);

    address internal payer = vm.addr(PAYER_KEY);
    address internal payee = vm.addr(PAYEE_KEY);
    address internal signer = vm.addr(SIGNER_KEY);
    address internal stranger = address(0x5773A26E7);

    IChannelEscrow internal escrow;
    ITestUSDC internal usdc;
    uint256 private _salts;

    function setUp() public virtual {
        vm.warp(START);
        escrow = IChannelEscrow(_deploy("ChannelEscrow.sol:ChannelEscrow"));
        usdc = ITestUSDC(_deploy("TestUSDC.sol:TestUSDC"));
        _fund(address(usdc), payer);
        vm.deal(payer, 1 << 100);
    }

    function _deploy(string memory artifact) internal returns (address deployed) {
        bytes memory code = vm.getCode(artifact);
        assembly ("memory-safe") {
            deployed := create(0, add(code, 32), mload(code))
        }
        vm.assertTrue(deployed != address(0), "deployed");
    }

    /// @dev Mints more than any test deposits to `account`, and lets the escrow pull all of it.
    function _fund(address token, address account) internal {
        ITestUSDC(token).mint(account, 1 << 100);
        vm.prank(account);
        (bool success,) = token.call(abi.encodeCall(ITestUSDC.approve, (address(escrow), type(uint256).max)));
        vm.assertTrue(success, "approved");
    }

    // Calls to the escrow, with the revert data they should give; none for success.

    function _call(address caller, uint256 value, bytes memory data, bytes memory expected) internal {
        vm.prank(caller);
        (bool success, bytes memory result) = address(escrow).call{value: value}(data);
        if (success) result = "";
        vm.assertEq(result, expected, "outcome of the call");
        vm.assertEq(success, expected.length == 0, "success of the call");
    }

    function _call(address caller, bytes memory data, bytes memory expected) internal {
        _call(caller, 0, data, expected);
    }

    function _call(address caller, bytes memory data) internal {
        _call(caller, 0, data, "");
    }

    function _fails(address caller, uint256 value, bytes memory data) internal {
        vm.prank(caller);
        (bool success,) = address(escrow).call{value: value}(data);
        vm.assertEq(success, false, "the call fails");
    }

    // Channels.

    function _channel(address token) internal returns (IChannelEscrow.ChannelDescriptor memory) {
        return IChannelEscrow.ChannelDescriptor(payer, payee, token, bytes32(++_salts), signer);
    }

    function _id(IChannelEscrow.ChannelDescriptor memory channel) internal view returns (bytes32) {
        return _id(channel, address(escrow), block.chainid);
    }

    function _id(IChannelEscrow.ChannelDescriptor memory channel, address escrow_, uint256 chainId)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(
            abi.encode(
                channel.payer, channel.payee, channel.token, channel.salt, channel.authorizedSigner, escrow_, chainId
            )
        );
    }

    function _openData(IChannelEscrow.ChannelDescriptor memory channel, uint128 deposit)
        internal
        pure
        returns (bytes memory)
    {
        return abi.encodeCall(
            IChannelEscrow.open, (channel.payee, channel.token, deposit, channel.salt, channel.authorizedSigner)
        );
    }

    function _open(IChannelEscrow.ChannelDescriptor memory channel, uint128 deposit) internal {
        _call(channel.payer, channel.token == NATIVE ? deposit : 0, _openData(channel, deposit), "");
    }

    function _opened(address token) internal returns (IChannelEscrow.ChannelDescriptor memory channel) {
        channel = _channel(token);
        _open(channel, DEPOSIT);
    }

    function _settled(address token, uint128 settled)
        internal
        returns (IChannelEscrow.ChannelDescriptor memory channel)
    {
        channel = _opened(token);
        if (settled != 0) _call(payee, _settleData(channel, settled, settled));
    }

    function _state(IChannelEscrow.ChannelDescriptor memory channel)
        internal
        view
        returns (IChannelEscrow.ChannelState memory)
    {
        return escrow.getChannel(_id(channel));
    }

    function _checkState(
        IChannelEscrow.ChannelDescriptor memory channel,
        uint256 deposit,
        uint256 settled,
        uint256 closeRequestedAt,
        bool finalized
    ) internal view {
        IChannelEscrow.ChannelState memory state = _state(channel);
        vm.assertEq(state.deposit, deposit, "deposit");
        vm.assertEq(state.settled, settled, "settled");
        vm.assertEq(state.closeRequestedAt, closeRequestedAt, "closeRequestedAt");
        vm.assertEq(state.finalized, finalized, "finalized");
    }

    function _settleData(IChannelEscrow.ChannelDescriptor memory channel, uint128 cumulative, uint128 capture)
        internal
        view
        returns (bytes memory)
    {
        return abi.encodeCall(
            IChannelEscrow.settle, (channel, cumulative, capture, _voucher(channel, cumulative, SIGNER_KEY))
        );
    }

    function _closeData(IChannelEscrow.ChannelDescriptor memory channel, uint128 cumulative, uint128 capture)
        internal
        view
        returns (bytes memory)
    {
        return abi.encodeCall(
            IChannelEscrow.close, (channel, cumulative, capture, _voucher(channel, cumulative, SIGNER_KEY))
        );
    }

    function _item(IChannelEscrow.ChannelDescriptor memory channel, uint128 cumulative, uint128 capture)
        internal
        view
        returns (IChannelEscrow.Capture memory)
    {
        return IChannelEscrow.Capture(channel, cumulative, capture, _voucher(channel, cumulative, SIGNER_KEY));
    }

    // Signatures.

    function _domain(string memory name, string memory version, address verifyingContract, uint256 chainId)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256(bytes(name)),
                keccak256(bytes(version)),
                chainId,
                verifyingContract
            )
        );
    }

    function _escrowDomain() internal view returns (bytes32) {
        return _domain("EVM Payment Channel", "1", address(escrow), block.chainid);
    }

    function _digest(bytes32 domain, bytes memory content) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain, keccak256(content)));
    }

    function _voucherContent(bytes32 channelId, uint128 cumulative) internal pure returns (bytes memory) {
        return abi.encode(keccak256("Voucher(bytes32 channelId,uint128 cumulativeAmount)"), channelId, cumulative);
    }

    function _voucherDigest(IChannelEscrow.ChannelDescriptor memory channel, uint128 cumulative)
        internal
        view
        returns (bytes32)
    {
        return _digest(_escrowDomain(), _voucherContent(_id(channel), cumulative));
    }

    function _voucher(IChannelEscrow.ChannelDescriptor memory channel, uint128 cumulative, uint256 key)
        internal
        view
        returns (bytes memory)
    {
        return _sign(key, _voucherDigest(channel, cumulative));
    }

    function _sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev The other valid form of a signature: s mirrored into the upper half, v flipped.
    function _highS(bytes memory signature) internal pure returns (bytes memory) {
        (bytes32 r, bytes32 s, uint8 v) = _split(signature);
        return abi.encodePacked(r, bytes32(CURVE_ORDER - uint256(s)), uint8(55 - v));
    }

    /// @dev The same signature in the 64 bytes of EIP-2098.
    function _compact(bytes memory signature) internal pure returns (bytes memory) {
        (bytes32 r, bytes32 s, uint8 v) = _split(signature);
        return abi.encodePacked(r, bytes32(uint256(s) | (uint256(v - 27) << 255)));
    }

    function _split(bytes memory signature) internal pure returns (bytes32 r, bytes32 s, uint8 v) {
        assembly ("memory-safe") {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
            v := byte(0, mload(add(signature, 96)))
        }
    }

    // EIP-3009 authorizations of deposits.

    function _openNonce(IChannelEscrow.ChannelDescriptor memory channel) internal pure returns (bytes32) {
        return
            keccak256(abi.encode(channel.payer, channel.payee, channel.token, channel.salt, channel.authorizedSigner));
    }

    function _authorizeReceive(uint256 key, uint256 value, bytes32 nonce) internal view returns (bytes memory) {
        bytes32 typeHash = keccak256(
            "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
        );
        bytes memory content =
            abi.encode(typeHash, vm.addr(key), address(escrow), value, VALID_AFTER, VALID_BEFORE, nonce);
        return _sign(key, _digest(_domain("USDC", "2", address(usdc), block.chainid), content));
    }

    function _openAuthorized(
        IChannelEscrow.ChannelDescriptor memory channel,
        uint128 deposit,
        bytes32 nonce,
        bytes memory signature
    ) internal pure returns (bytes memory) {
        return abi.encodeCall(
            IChannelEscrow.openWithAuthorization,
            (
                channel.payee,
                channel.token,
                deposit,
                channel.salt,
                channel.authorizedSigner,
                channel.payer,
                VALID_AFTER,
                VALID_BEFORE,
                nonce,
                signature
            )
        );
    }

    function _openAuthorized(IChannelEscrow.ChannelDescriptor memory channel) internal view returns (bytes memory) {
        bytes32 nonce = _openNonce(channel);
        return _openAuthorized(channel, DEPOSIT, nonce, _authorizeReceive(PAYER_KEY, DEPOSIT, nonce));
    }

    // Reverts.

    function _invalidSignature(address expectedSigner, bytes32 digest) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IChannelEscrow.InvalidSignature.selector, expectedSigner, digest);
    }

    function _error(bytes4 selector, bytes32 channelId) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, channelId);
    }

    function _error(bytes4 selector, uint256 first, uint256 second) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, first, second);
    }

    function _error(bytes4 selector, address first, address second) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, first, second);
    }

    function _tokenBalance(address token, address account) internal view returns (uint256) {
        return token == NATIVE ? account.balance : ITestUSDC(token).balanceOf(account);
    }
}
